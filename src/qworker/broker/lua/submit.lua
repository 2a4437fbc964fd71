-- Queue tasks on one line, all or none.
--
-- Sent twice, it finds its own tasks and says `same`. With result keys (ids that were given by a caller, and everything
-- that is sent again) it also finds those that have ended meanwhile: without them a second run would start.
-- A lone task goes to an idle worker whose claim stands, as if that claim had taken it, and the worker is told all that a
-- claim's reply tells; only if it hears that, so what is pushed and lost is found by its next claim.
-- `items` are `step` arguments each: id, blob (2), or id, blob, delay_ms, deadline_ms (4); of four, a blob may be its digest
-- alone: it is large, and is put into `bodies` right behind this script, in one transaction.
--
-- transition: submit, claim
-- KEYS: bodies, tasks, later, leases, held, standing, stats, meta, line, bell, results...
-- ARGV: now_ms, epoch, line, step, items...
-- reply: now_ms, epoch, one letter per item: o (queued), s (the same is there), e (the same has ended)
-- refuses: CONFLICT
-- cost: O(items)

local now = clock()

local step = tonumber(A.step)
local ids, count = {}, 0
for i = REST, #ARGV, step do
  count = count + 1
  ids[count] = ARGV[i]
end

-- Everything is checked before the first write: a script that fails half-way keeps what it wrote.
local present = fetch(K.bodies, ids)
local skip, letters, checked = {}, nil, #KEYS >= RESULTS
for n = 1, count do
  local digest = present[n] and sub(present[n], 1, 8)
  local letter = 's'
  if not digest and checked then
    local head = call('GETRANGE', KEYS[RESULTS + n - 1], 3, 10)
    if head ~= '' then digest, letter = head, 'e' end
  end
  if digest then
    if digest ~= sub(ARGV[REST + (n - 1) * step + 1], 1, 8) then
      return redis.error_reply('CONFLICT ' .. ids[n])
    end
    skip[n], letters = letter, true
  end
end

local meta = call('HMGET', K.meta, 'epoch', 'fence')
local epoch = meta[1]
local ready, queued, delayed = ids, count, false
if step == 2 and not letters then
  local last = #ARGV
  for first = REST, last, CHUNK do
    call('HSET', K.bodies, unpack(ARGV, first, math.min(first + CHUNK - 1, last)))
  end
else
  local blobs, records, due = {}, {}, {}
  ready, queued = {}, 0
  for n = 1, count do
    if not skip[n] then
      local at, id = REST + (n - 1) * step, ids[n]
      queued = queued + 1
      local large = #ARGV[at + 1] == 8
      if not large then blobs[#blobs + 1], blobs[#blobs + 2] = id, ARGV[at + 1] end
      local delay = step == 4 and tonumber(ARGV[at + 2]) or 0
      local deadline = step == 4 and tonumber(ARGV[at + 3]) or 0
      if delay > 0 or deadline > 0 or large then
        local r = fresh(A.line)
        if large then r.marks = ' l' end
        if deadline > 0 then r.deadline = int(now + deadline) end
        if delay > 0 then
          r.state, delayed = 's', true
          due[#due + 1], due[#due + 2] = int(now + delay), id
        end
        records[#records + 1], records[#records + 2] = id, text_of(r)
      end
      if delay <= 0 then ready[#ready + 1] = id end
    end
  end
  -- The first write grows, so that a full server refuses the call before anything is done.
  many('HSET', K.bodies, blobs)
  many('HSET', K.tasks, records)
  many('ZADD', K.later, due)
end

if not epoch then
  epoch = A.epoch
  call('HSET', K.meta, 'epoch', epoch)
end

-- Have the lone task taken by the claim that has stood longest. Returns whether its worker heard of it.
local function hand_over(id, entry, until_ms)
  local claim, lease, needs, worker, channel, queue = string.match(entry, '^(%S+) (%d+) (%d+) (%S+) (%S+) (%S+)$')
  if not claim or tonumber(until_ms) <= now or not string.find(needs, int(pool_of(A.line)), 1, true) then return false end
  -- Before it is told, and by whom this server tells: in a cluster, and on a replica, others hear what nobody here does,
  -- and would run what their claim does not hold. Who may not ask this rings instead.
  local heard = redis.pcall('PUBSUB', 'NUMSUB', channel)
  if heard.err or heard[2] == 0 then return false end
  local fence = int(draw_fence(tonumber(meta[2] or '0'), now))
  local text = 'c ' .. claim .. ' ' .. A.line .. ' - 1 1 1 0 0 0 0 0'
  local head = table.concat({ 'window', queue, claim, fence, int(now), epoch, id, text }, ' ')
  if type(redis.pcall('PUBLISH', channel, head .. '\n' .. ARGV[REST + 1])) ~= 'number' then return false end
  call('HSET', K.tasks, id, text)
  call('HSET', K.held, claim, fence .. ' ' .. worker .. ' 0 ' .. id, claim .. '#', '1')
  call('ZADD', K.leases, int(now + tonumber(lease)), claim)
  call('HINCRBY', K.stats, 'claimed', 1)
  return true
end

if queued > 0 then
  call('HINCRBY', K.stats, 'submitted', queued)
  local lone, handed = count == 1 and step == 2, false
  while lone and not handed do
    local found = call('ZPOPMIN', K.standing)
    if not found[1] then break end
    handed = hand_over(ids[1], found[1], found[2])
  end
  if not handed then
    many('RPUSH', K.line, ready)
    -- For delayed tasks, too: one may be due before the moment until which idle workers sleep.
    if #ready > 0 or delayed then ring(K.bell, lone) end
  end
end

local answer = {}
for n = 1, count do answer[n] = skip[n] or 'o' end
return { int(now), epoch, table.concat(answer) }
