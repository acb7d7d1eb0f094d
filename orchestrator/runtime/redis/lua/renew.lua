-- Renew a lease that the owner of the token still holds.
-- KEYS lease, owned hash   ARGV owner token, lease ms, the server's clock as the owner expects it, in us
-- Returns 1, or 0 if the lease is lost. If it expired only because the server's clock was set ahead, and no other node
-- has taken it, it is not lost but set again.
local held = redis.call('GET', KEYS[1])
if held == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
local time = redis.call('TIME')
local set_ahead_us = time[1] * 1000000 + time[2] - ARGV[3]
if held or redis.call('HGET', KEYS[2], 'owner') ~= ARGV[1] or set_ahead_us < ARGV[2] * 1000 then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
