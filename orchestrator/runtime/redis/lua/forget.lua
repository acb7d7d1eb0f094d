-- Remove the log of a session that has ended. Its state stays as a tombstone: no session can have the same id again.
-- KEYS session log, session state, live sessions   ARGV session id, its last version, 'all': the tombstone goes, too
-- Returns 'OK', or why nothing was removed: 'LIVE', 'CHANGED' (the log does not end at that version).
if redis.call('SISMEMBER', KEYS[3], ARGV[1]) == 1 then return 'LIVE' end
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
if last and last[1] ~= '0-' .. ARGV[2] then return 'CHANGED' end
redis.call('UNLINK', KEYS[1])
redis.call('HDEL', KEYS[2], 'snapshot')
if ARGV[3] == 'all' then redis.call('UNLINK', KEYS[2]) end
return 'OK'
