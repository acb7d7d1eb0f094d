-- Release a lease, so that any node can take it at once. If there is an heir, only the heir can take it for some ms.
-- KEYS lease, owned hash   ARGV owner token, heir (a node, or ''), how long it is reserved in ms, the heir's address
-- The owner token is removed, too: a commit that arrives late, from a broken connection, must be refused.
if redis.call('HGET', KEYS[2], 'owner') == ARGV[1] then redis.call('HDEL', KEYS[2], 'owner', 'address') end
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if ARGV[2] == '' then return redis.call('DEL', KEYS[1]) end
redis.call('SET', KEYS[1], 'for ' .. ARGV[2], 'PX', ARGV[3])
redis.call('HSET', KEYS[2], 'address', ARGV[4])
return 1
