-- Everything that is known of one task.
--
-- `limit` bounds how far into its line the position of a queued task is looked for.
--
-- transition: none
-- KEYS: bodies, tasks, later, leases, held, suspects, progress, lines, results...
-- ARGV: now_ms, id, limit
-- reply: now_ms, record, blob, outcome, how many are before it, due_ms, worker, lease_ms, progress; empty where there
--   is none
-- refuses: none
-- cost: O(limit)

local now = clock()
local id = A.id
local blob, text = call('HGET', K.bodies, id) or '', call('HGET', K.tasks, id) or ''
local outcome = call('GET', KEYS[RESULTS]) or ''
local before, due, worker, lease = '', '', '', ''
local r = text ~= '' and parse(text) or nil
local line = blob ~= '' and sub(blob, 9, 9)
if r and (r.state == 'c' or r.state == 'r') then
  worker = string.match(call('HGET', K.held, r.claim) or '', '^%S+ (%S+)') or ''
  lease = call('ZSCORE', K.leases, r.claim) or ''
elseif r and r.state == 's' then
  due = call('ZSCORE', K.later, id) or ''
elseif line and is_line(line) then
  local list = r and r.losses >= 2 and K.suspects or line_key(line)
  local place = call('LPOS', list, id, 'MAXLEN', A.limit)
  if place then
    local ahead = tonumber(place)
    if list ~= K.suspects then
      for n = 97 + pool_of(line) * 3, byte(line) - 1 do ahead = ahead + call('LLEN', KEYS[LINES + n - 96]) end
    end
    before = int(ahead)
  end
end
return { int(now), text, blob, outcome, before, due, worker, lease, call('HGET', K.progress, id) or '' }
