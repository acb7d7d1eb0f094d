-- A sign of life of one node, and who else lives.
-- KEYS nodes   ARGV node, lease ms (0: it leaves), what it says of itself, ms since its last sign by its own steady clock
-- A field is 'since seen lease said', times in ms of the server's clock. Returns {node, age, silence, said} of each.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local fields, alive, since, ahead = redis.call('HGETALL', KEYS[1]), {}, now, 0
for i = 1, #fields, 2 do  -- by how much the server's clock was set ahead since our last sign
  local seen = fields[i] == ARGV[1] and string.match(fields[i + 1], '^%d+ (%d+)')
  if seen and now - seen - ARGV[4] > 1000 then ahead = now - seen - ARGV[4] end
end
for i = 1, #fields, 2 do
  local first, seen, lease, said = string.match(fields[i + 1], '^(%d+) (%d+) (%d+) (.*)$')
  -- After the clock was set, in either direction, the times noted before are moved along: nobody has fallen silent.
  local moved = 0
  if tonumber(seen) > now then moved = now - seen elseif seen + lease < now then moved = ahead end
  if moved ~= 0 then
    first, seen = math.min(first + moved, now), math.min(seen + moved, now)
    redis.call('HSET', KEYS[1], fields[i], string.format('%.0f %.0f %s %s', first, seen, lease, said))
  end
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
