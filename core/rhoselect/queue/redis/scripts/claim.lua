-- Lease the first waiting ticket that the worker may claim.
-- KEYS 1 stages hash, 2 todo zset, 3 leases hash, 4 shortlists hash, 5 notify stream
-- ARGV 1 worker slot, 2 lanes, 3 newest version loaded or '' for any, 4 lease in ms, 5 expiry in ms,
--      6 '0' for tickets of shortlists only, '1' for candidates' only, '-1' for both, 7 the worker's lane
-- Returns {ticket, points of a shortlist's chunk or nil}; the last id of the notify stream if there is
-- no ticket.
local lane, lanes, loaded = tonumber(ARGV[7]), tonumber(ARGV[2]), tonumber(ARGV[3])
if lane >= lanes then lane = nil end -- the worker has none

-- The first waiting ticket of the worker's lane in a stage, whose first waiting chunk is given.
local function first_of_lane(stage, first_chunk, version)
  if not lane then return nil end
  local _, chunks = string.match(redis.call('HGET', KEYS[1], stage) or '0 0', '(%S+) (%d+)')
  local start = first_chunk + (lane - first_chunk) % lanes
  for chunk = start, tonumber(chunks) - 1, lanes do
    local ticket = string.format('%s:%010d:%s', stage, chunk, version)
    if redis.call('ZSCORE', KEYS[2], ticket) then return ticket end
  end
end

local function find()
  local first = redis.call('ZRANGE', KEYS[2], 0, 0)[1]
  while first do
    local stage, chunk, version = string.match(first, '(%d+):(%d+):(%S+)')
    if ARGV[6] == '-1' or stage % 2 == tonumber(ARGV[6]) then
      if lane and chunk % lanes == lane then return first, stage end
      local ticket = first_of_lane(stage, tonumber(chunk), version)
      if ticket then return ticket, stage end
      if not loaded or tonumber(version) <= loaded then return first, stage end
    end
    first = redis.call('ZRANGEBYSCORE', KEYS[2], '(' .. stage, '+inf', 'LIMIT', 0, 1)[1]
  end
end

local ticket, stage = find()
local points = nil
if ticket then
  redis.call('ZREM', KEYS[2], ticket)
  if stage % 2 == 0 then
    points = redis.call('HGET', KEYS[4], ticket)
    -- A shortlist's ticket whose points have expired cannot be scored; `open` restores both.
    if not points then ticket = nil end
  end
end
if not ticket then
  local last = redis.call('XREVRANGE', KEYS[5], '+', '-', 'COUNT', 1)[1]
  return last and last[1] or '0-0'
end

local time = redis.call('TIME')
local deadline = time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[4]
redis.call('HSET', KEYS[3], ticket, string.format('%.0f %s', deadline, ARGV[1]))
redis.call('PEXPIRE', KEYS[3], ARGV[5])
return {ticket, points or false}
