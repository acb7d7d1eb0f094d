-- A sign of life of one node, and who else lives. KEYS nodes   ARGV node, lease ms (0: it leaves), what it says of itself
-- A field is 'since seen lease said', times in ms of the server's clock. Returns {node, age, silence, said} of each.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local fields, alive, since = redis.call('HGETALL', KEYS[1]), {}, now
for i = 1, #fields, 2 do
  local first, seen, lease, said = string.match(fields[i + 1], '^(%d+) (%d+) (%d+) (.*)$')
  if seen + lease < now then redis.call('HDEL', KEYS[1], fields[i])
  elseif fields[i] == ARGV[1] then since = tonumber(first)
  else alive[#alive + 1] = {fields[i], now - first, now - seen, said} end
end
if ARGV[2] == '0' then
  redis.call('HDEL', KEYS[1], ARGV[1])
else
  redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f %.0f %s %s', since, now, ARGV[2], ARGV[3]))
  alive[#alive + 1] = {ARGV[1], now - since, 0, ARGV[3]}
end
return alive
