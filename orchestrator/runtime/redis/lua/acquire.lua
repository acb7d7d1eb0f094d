-- Acquire a lease that is free or reserved for this node, and become the owner. Returns nil if it is neither.
-- KEYS lease, owned hash, live sessions   ARGV owner token, lease ms, advertised address, node
-- Returns {cursor, live session ids, the server's clock as {s, us}}.
local held = redis.call('GET', KEYS[1])
if held and held ~= 'for ' .. ARGV[4] then return nil end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
redis.call('HSET', KEYS[2], 'owner', ARGV[1], 'address', ARGV[3])
return {redis.call('HGET', KEYS[2], 'cursor') or '0-0', redis.call('SMEMBERS', KEYS[3]), redis.call('TIME')}
