-- Take a free lease and become the owner, or return nothing.
-- KEYS lease, owned hash, live sessions   ARGV owner token, lease ms, advertised address
-- Returns {cursor, live session ids}.
if not redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then return nil end
redis.call('HSET', KEYS[2], 'owner', ARGV[1], 'address', ARGV[3])
return {redis.call('HGET', KEYS[2], 'cursor') or '0-0', redis.call('SMEMBERS', KEYS[3])}
