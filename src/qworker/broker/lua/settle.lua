-- Record outcomes, retries, losses and releases of tasks, each only if its claim still holds the task.
--
-- `items` are `groups` groups of ends (claim, outcome's letter, ttl_ms, client, how many, and of each id, value, hint),
-- then `moves` moves (A again, O again while it runs on, R release, P park, L lose; id, claim, delay_ms or exact, the
-- cursor or nothing), then the claims whose stops are wanted. The result keys are those of the ends, in their order;
-- behind them come those of the `stashed` values that lie there already, as long as their result may live, and are none
-- here.
-- A settle whose claim no longer holds the task changes nothing: if it is its own repetition it says so, else it is
-- counted as refused. A stop that waits goes before any move: the worker then settles the task as cancelled.
-- `stand`, if any, is a claim that this worker leaves standing: it has nothing else to do.
--
-- transition: end, release, park, lose, retry
-- KEYS: bodies, tasks, later, leases, held, standing, stops, suspects, cursors, progress, dead, dead_bodies, stats, lines, bells, results...
-- ARGV: now_ms, worker, resend, inbox, stand, stashed, groups, moves, items...
-- reply: one letter per item in the order of the arguments: o (ok), l (lost), a (again), s (stopped); then claim, id, order
--   of each stop that waits
-- refuses: none
-- cost: O(items)

make_way()
local letters, count, refused, at = {}, 0, 0, REST
local settled = {} -- claim -> how many of its tasks it no longer holds
local messages = {} -- client -> what its inbox is told
local gone, result = {}, RESULTS
local stash = #KEYS - tonumber(A.stashed)
local dead = nil -- the time, when something ended that is kept for a retry

for _ = 1, tonumber(A.groups) do
  local claim, code, ttl, client, size = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], tonumber(ARGV[at + 4])
  local ids, done = {}, 0
  local plain -- a record that this claim holds, without a stop: mostly that of all of them
  for i = 1, size do ids[i] = ARGV[at + 2 + i * 3] end
  local records = fetch(K.tasks, ids)
  local message = messages[client]
  if not message and client ~= '' then
    message = {}
    messages[client] = message
  end
  for i = 1, size do
    local id, record, letter = ids[i], records[i], 'l'
    local value, hint = ARGV[at + 3 + i * 3], ARGV[at + 4 + i * 3]
    if value == '' then stash = stash + 1 end
    if (record and record == plain) or is_held_by(record, claim) then
      if value == '' then call('RENAME', KEYS[stash], KEYS[result]) else call('SET', KEYS[result], value, 'PX', ttl) end
      if KEPT[code] then
        -- library
        local blob, r = call('HGET', K.bodies, id), parse(record)
        dead = dead or clock()
        if blob then bury(id, blob, r and r.run or '1', dead) end
      end
      if record ~= plain then
        if sub(record, 18, 18) ~= '-' then call('ZREM', K.stops, claim .. ' ' .. id) else plain = record end
      end
      if message then message[#message + 1] = hint ~= '' and hint or value end
      done = done + 1
      gone[#gone + 1] = id
      letter = 'o'
    elseif call('GETRANGE', KEYS[result], 12, 23) == claim then
      letter = 'a'
    elseif A.resend ~= '1' then
      refused = refused + 1
    end
    if value == '' and letter ~= 'o' then call('DEL', KEYS[stash]) end
    count = count + 1
    letters[count] = letter
    result = result + 1
  end
  if done > 0 then
    settled[claim] = (settled[claim] or 0) + done
    call('HINCRBY', K.stats, OUTCOMES[code], done)
  end
  at = at + 5 + size * 3
end
many('HDEL', K.bodies, gone)
many('HDEL', K.tasks, gone)
-- Mostly there is nothing of this kind in the whole queue, and what follows adds no stops.
local notes = call('EXISTS', K.cursors, K.progress, K.stops) > 0
if notes then
  -- library
  forget_notes(gone)
end

local moves = tonumber(A.moves)
if moves > 0 then
  -- library
  local now, ids = clock(), {}
  for i = 1, moves do ids[i] = ARGV[at + (i - 1) * 5 + 1] end
  local records = fetch(K.tasks, ids)
  local returns, back, counts, last_pools = new_returns(), {}, {}, {}
  for i = 1, moves do
    local kind, id, claim, x, cursor = ARGV[at], ids[i], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4]
    local text, letter = records[i], 'l'
    local r = text and sub(text, 3, 14) == claim and parse(text)
    if not r then
      if A.resend ~= '1' then refused = refused + 1 end
    elseif r.state ~= 'c' and r.state ~= 'r' then
      letter = 'a' -- put back by this very claim, and not taken since
    elseif r.stop ~= '-' then
      letter = 's'
    else
      letter = 'o'
      settled[claim] = (settled[claim] or 0) + 1
      if cursor ~= '' then call('HSET', K.cursors, id, cursor) end
      local word, later = 'released', false
      if kind == 'R' then
        -- As if it had not been handed out: what is released often must not look undeliverable.
        r.deliveries, r.once = math.max(0, r.deliveries - 1), '0'
        give_back(returns, id, r)
      elseif kind == 'L' then
        word = 'lost'
        charge(r, x == '1')
        give_back(returns, id, r)
      elseif kind == 'P' then
        word, later = 'parked', true
        r.deliveries = math.max(0, r.deliveries - 1)
      else
        word, later = 'retried', tonumber(x) > 0
        r.attempt, r.deliveries = r.attempt + 1, 0
        if kind == 'O' then cast_adrift(r) end
        if not later then
          local key = list_of(r)
          local list = back[key]
          if not list then
            list = {}
            back[key] = list
          end
          list[#list + 1] = id
          last_pools[pool_of(r.line)] = true
          r.state, r.started = 'q', '0'
          call('HSET', K.tasks, id, text_of(r))
        end
      end
      if later then
        r.state, r.started = 's', '0'
        call('HSET', K.tasks, id, text_of(r))
        call('ZADD', K.later, int(now + tonumber(x)), id)
      end
      counts[word] = (counts[word] or 0) + 1
    end
    count = count + 1
    letters[count] = letter
    at = at + 5
  end
  write_returns(returns)
  for key, list in pairs(back) do many('RPUSH', key, list) end
  ring_all(last_pools)
  for word, n in pairs(counts) do call('HINCRBY', K.stats, word, n) end
end

for claim, n in pairs(settled) do
  if call('HINCRBY', K.held, claim .. '#', -n) <= 0 then
    -- library
    drop_claim(claim)
  else
    call('HSET', K.held, claim .. '+', '1')
  end
end
if A.stand ~= '' then
  -- library
  stand(A.stand, clock())
end
if refused > 0 then call('HINCRBY', K.stats, 'refused_late', refused) end
if dead then
  -- library
  trim_dead(dead)
end
-- One message per client, after all is written. Only a hint: a client that misses it peeks.
for client, message in pairs(messages) do
  if #message > 0 then call('PUBLISH', A.inbox .. client, table.concat(message)) end
end

local reply = { table.concat(letters) }
if notes then
  -- library
  add_stops(reply, at, #ARGV)
end
return reply
