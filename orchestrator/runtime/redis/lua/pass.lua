-- Move the cursor past an entry without a step of a session, and trim the stream. With a reason, the entry is kept as a
-- dead letter; without, it is a duplicate, too late, or forwarded by an ingress.
-- KEYS owned hash, dead letters, the stream   ARGV owner token, expected cursor, new cursor, reason (or ''), text of
--      the entry, context that helps to understand it
-- Returns 'OK', or which check failed: 'NOT_OWNER', 'CURSOR'.
local owned = redis.call('HMGET', KEYS[1], 'owner', 'cursor')
if owned[1] ~= ARGV[1] then return 'NOT_OWNER' end
if (owned[2] or '0-0') ~= ARGV[2] then return 'CURSOR' end
if ARGV[4] ~= '' then
  redis.call('XADD', KEYS[2], 'MAXLEN', '~', 10000, '*', 'id', ARGV[3], 'reason', ARGV[4], 'e', ARGV[5], 'where', ARGV[6])
end
redis.call('HSET', KEYS[1], 'cursor', ARGV[3])
redis.call('XTRIM', KEYS[3], 'MINID', '~', ARGV[3])
return 'OK'
