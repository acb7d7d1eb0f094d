-- Remove all handled entries of a stream: those up to the stored cursor. The scripts that move the cursor remove only
-- whole nodes of 100 entries, which costs nothing; after a purge, no words of the purged sessions may be left.
-- KEYS owned hash, the stream
-- Returns how many entries were removed.
local cursor = redis.call('HGET', KEYS[1], 'cursor')
if not cursor then return 0 end
local waiting = redis.call('XRANGE', KEYS[2], '(' .. cursor, '+', 'COUNT', 1)[1]
if waiting then return redis.call('XTRIM', KEYS[2], 'MINID', waiting[1]) end
return redis.call('XTRIM', KEYS[2], 'MAXLEN', 0)
