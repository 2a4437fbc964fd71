-- What the scripts of task groups share; scripts.py puts it behind lib.lua in front of each of them.
--
-- A group is a hash: state (open, detached, stopped, closed), reason, grace, name, owner, on_loss (cancel, detach), path
-- (the groups above it, root first), lease_ms, beat_ms (when its owner was last heard), late_ms, deadline_ms, opened_ms,
-- stopped_ms, closed_ms. Its members are a sorted set of full ids (queue:local) and of ids of groups, which have no colon.
-- The owner's lease only counts for an open group: who finds it lapsed applies the loss.

local OPEN, SILENT_MS = { open = true, detached = true }, 3000
local FIELDS = { 'state', 'reason', 'grace', 'on_loss', 'lease_ms', 'beat_ms', 'late_ms', 'deadline_ms' }

-- Read what decides on a group; nil for one that is not known.
local function read_group(key)
  local found = call('HMGET', key, unpack(FIELDS))
  if not found[1] then return nil end
  return {
    state = found[1], reason = found[2] or '', grace = found[3] or '', on_loss = found[4] or 'cancel',
    lease = tonumber(found[5] or '0'), beat = tonumber(found[6] or '0'), late = tonumber(found[7] or '0'),
    deadline = tonumber(found[8] or '0'),
  }
end

-- Write a stop, and tell the workers. A later one may only bring another grace.
local function stop_group(key, id, group, reason, grace, now)
  if OPEN[group.state] then
    group.state, group.reason, group.grace = 'stopped', reason, grace
    call('HSET', key, 'state', 'stopped', 'reason', reason, 'grace', grace, 'stopped_ms', int(now))
  elseif group.state == 'stopped' and grace ~= '' and grace ~= group.grace then
    group.grace = grace
    call('HSET', key, 'grace', grace)
  else
    return
  end
  call('PUBLISH', A.channel, id .. ' ' .. (group.grace == '' and '-' or group.grace))
end

-- Its owner is gone: the tree ends with it, or goes on without it.
local function lose_owner(key, id, group, now)
  if group.state ~= 'open' then return end
  if group.on_loss == 'detach' then
    group.state = 'detached'
    call('HSET', key, 'state', 'detached')
  else
    stop_group(key, id, group, 'its owner is gone', '', now)
  end
end

-- Whether an open group's owner was not heard for its lease.
local function is_lapsed(group, now)
  return group.state == 'open' and group.lease > 0 and now > group.beat + group.lease
end

-- Say where a group stands now: its state, or `late` while its owner's lease has lapsed and nobody knows yet whether that
-- was the owner's fault: after a server that stood still the owner has a moment to tell of itself.
local function judge(key, id, group, now)
  if is_lapsed(group, now) then
    if group.late == 0 then
      call('HSET', key, 'late_ms', int(now))
    elseif now >= group.late + SILENT_MS then
      lose_owner(key, id, group, now)
      return group.state
    end
    return 'late'
  end
  return group.state
end

-- Say which group of a path (its hashes are the variadic keys) takes no tasks, as a reply; nil when all of them do.
-- `first` of the `more` members that are to be listed tells whether they are already, by the first sending of this call.
local function refuse(now, path, last, members, more, first)
  for i = 1, last do
    local key = KEYS[RESULTS + i - 1]
    local group = read_group(key)
    local state = group and judge(key, path[i], group, now)
    if not state then return { int(now), path[i], 'unknown', '' } end
    if state ~= 'late' and not OPEN[state] then return { int(now), path[i], state, group.reason } end
    if group.deadline > 0 and group.deadline <= now then return { int(now), path[i], 'expired', '' } end
  end
  if last > 0 and call('ZCARD', members) + more > tonumber(A.most) and not call('ZSCORE', members, first) then
    return { int(now), path[last], 'full', '' }
  end
  return nil
end
