-- Renew the leases of all claims of a worker, mark tasks as running, keep what tasks told of themselves, and bring the
-- stops that wait for them.
--
-- `items` are `claims` claim ids, then claim, id, ran_ms, once of each of `started` tasks, then claim, id, client, cursor,
-- progress of each task that told something (what it did not tell is empty). Progress is also pushed to the client.
-- A claim that is not known has been rescued or settled: it is lost, and never made anew.
--
-- transition: start
-- KEYS: tasks, leases, held, stops, cursors, progress, meta, stats
-- ARGV: now_ms, worker, lease_ms, expected_ms, stalled, epoch, inbox, claims, started, items...
-- reply: now_ms, epoch, how many claims are lost, those, then claim, id, order of each stop that waits
-- refuses: none
-- cost: O(claims + started tasks + tasks that told something)

local now = begin()
local lease, claims = tonumber(A.lease_ms), tonumber(A.claims)
local epoch = read_meta(now, lease)

local names = {}
for i = 1, claims do names[i] = ARGV[REST + i - 1] end
local known = fetch(K.held, names)
local lost, leases, seen = {}, {}, {}
for i = 1, claims do
  local claim = names[i]
  if known[i] then
    leases[#leases + 1], leases[#leases + 2] = int(now + lease), claim
    seen[#seen + 1], seen[#seen + 2] = claim .. '+', '1'
  else
    lost[#lost + 1] = claim
  end
end
many('ZADD', K.leases, leases)
many('HSET', K.held, seen)

local records = {}
local notes = REST + claims + 4 * tonumber(A.started)
for i = REST + claims, notes - 1, 4 do
  local claim, id, ran, once = ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2]), ARGV[i + 3]
  local text = call('HGET', K.tasks, id)
  local r = is_held_by(text, claim) and parse(text)
  if r and (r.state == 'c' or (once == '1' and r.once == '0')) then
    if r.state == 'c' then r.state, r.started = 'r', int(now - ran) end
    if once == '1' then r.once = '1' end
    records[#records + 1], records[#records + 2] = id, text_of(r)
  end
end
many('HSET', K.tasks, records)

local messages = {} -- client -> what its inbox is told
for i = notes, #ARGV, 5 do
  local claim, id, client, cursor, progress = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4]
  if is_held_by(call('HGET', K.tasks, id), claim) then
    if cursor ~= '' then call('HSET', K.cursors, id, cursor) end
    if progress ~= '' then
      call('HSET', K.progress, id, progress)
      if client ~= '' then
        local message = messages[client] or {}
        message[#message + 1], messages[client] = progress, message
      end
    end
  end
end
for client, message in pairs(messages) do call('PUBLISH', A.inbox .. client, table.concat(message)) end

local reply = { int(now), epoch, #lost }
for i = 1, #lost do reply[3 + i] = lost[i] end
add_stops(reply, REST, REST + claims - 1)
return reply
