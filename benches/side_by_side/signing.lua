-- One call: sign the app's bytes, ask the platform, verify, plain JSON home. Fields and doubled members go unchecked.
local cjson = require "cjson.safe"
local keys = require "keys"

local function refuse(status, why)
  ngx.status = status
  ngx.header.content_type = "application/problem+json"
  ngx.print('{"detail":"', why, '"}')
  return ngx.exit(status)
end

local function verified(form, key)
  local resp, sign = string.match(form, "^resp=([^&]*)&sign=(%x+)$")
  local text = resp and ngx.unescape_uri(resp)
  if not text or ngx.md5(text .. key) ~= string.lower(sign) then return nil end
  return ngx.decode_base64(text)
end

local signing = {}

function signing.call()
  ngx.req.read_body()
  local message = ngx.req.get_body_data()
  local object = message and cjson.decode(message)
  if type(object) ~= "table" then return refuse(400, "not a JSON object") end
  local key = keys[object.merid]
  if not key then return refuse(422, "unknown merchant") end

  local text = ngx.encode_base64(message)
  local answer = ngx.location.capture("/platform" .. ngx.var.uri, {
    method = ngx.HTTP_POST,
    body = "req=" .. ngx.escape_uri(text) .. "&sign=" .. ngx.md5(text .. key),
  })
  if answer.status ~= 200 or answer.truncated then return refuse(502, "no answer") end

  local plain = verified(answer.body, key)
  if not plain then return refuse(502, "the sign does not fit") end
  ngx.header.content_length = #plain
  ngx.print(plain)
end

return signing
