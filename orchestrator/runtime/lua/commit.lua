-- Commit one step of one session: all checks first, then writes that cannot fail.
-- KEYS shard hash, session log, session state, live sessions, feed
-- ARGV owner token, expected cursor, new cursor, expected version, new version, events, session id, state hash,
--      'ended' when the session ended in this step
-- Returns 'OK', or which check failed: 'NOT_OWNER', 'CURSOR', 'VERSION'.
local shard = redis.call('HMGET', KEYS[1], 'owner', 'cursor')
if shard[1] ~= ARGV[1] then return 'NOT_OWNER' end
if (shard[2] or '0-0') ~= ARGV[2] then return 'CURSOR' end
if (redis.call('HGET', KEYS[3], 'version') or '0') ~= ARGV[4] then return 'VERSION' end
redis.call('XADD', KEYS[2], '0-' .. ARGV[5], 'e', ARGV[6])
redis.call('HSET', KEYS[3], 'version', ARGV[5], 'state_hash', ARGV[8])
if ARGV[9] == 'ended' then redis.call('SREM', KEYS[4], ARGV[7])
elseif ARGV[4] == '0' then redis.call('SADD', KEYS[4], ARGV[7]) end
local pointer = redis.call('HINCRBY', KEYS[1], 'feed', 1)
redis.call('XADD', KEYS[5], '0-' .. pointer, 's', ARGV[7], 'f', ARGV[4] + 1, 't', ARGV[5])
redis.call('HSET', KEYS[1], 'cursor', ARGV[3])
return 'OK'
