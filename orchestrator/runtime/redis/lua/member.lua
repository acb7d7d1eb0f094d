-- Store the sign of life of one node; return this node and the other live nodes.
-- KEYS nodes   ARGV node, lease ms (0: the node leaves), said (JSON: its address, how much it owns), ms since its last
--      sign of life, by its own monotonic clock
-- A field is 'since seen lease said': when the node joined, its last sign of life, its lease, its JSON. Times are in
-- ms of the server's clock. Returns {node, ms since it joined, ms since its last sign of life, said} of each.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local fields, alive, since, ahead = redis.call('HGETALL', KEYS[1]), {}, now, 0
for i = 1, #fields, 2 do  -- by how much the server's clock was set ahead since this node's last sign
  local seen = fields[i] == ARGV[1] and string.match(fields[i + 1], '^%d+ (%d+)')
  if seen and now - seen - ARGV[4] > 1000 then ahead = now - seen - ARGV[4] end
end
for i = 1, #fields, 2 do
  local first, seen, lease, said = string.match(fields[i + 1], '^(%d+) (%d+) (%d+) (.*)$')
  -- If the server's clock was set, forward or back, the stored times are moved by as much: no node counts as silent.
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
