-- Figures drawn by cells, and images of class `inline`, become part of the page, so that they follow
-- its colours, print sharply and can hold links. Short code in a line of text, as `2 - b` or `ij->ji`,
-- is marked, and the style sheet keeps it on one line. Both renderers run this filter: Quarto after its
-- own filters, the Pandoc driver when it writes a page.

local INK = "#7[dD]8287" -- the neutral ink of scratchlm.workshop.figure; the page's text colour takes its place
local seen, count = {}, 0 -- the ids already used on this page, the pictures so far

local function read(src)
  local file = io.open(src, "rb")
  if file then
    local text = file:read("a")
    file:close()
    return text
  end
  local found, _, text = pcall(pandoc.mediabag.fetch, src)
  return found and text or nil
end

-- Two plots call their axes `axes_1`, and one plot may hold the same image twice under one id. An id that
-- the page has already gets a prefix, and what refers to it within this picture follows.
local function with_unique_ids(svg)
  count = count + 1
  local name, times = {}, {}
  for id in svg:gmatch('%sid="([^"]+)"') do
    name[id] = name[id] or (seen[id] and "svg" .. count .. "-" .. id or id)
  end
  if next(name) == nil then return svg end
  for _, new in pairs(name) do seen[new] = true end
  svg = svg:gsub('(%sid=")([^"]+)(")', function(before, id, after)
    times[id] = (times[id] or 0) + 1
    return before .. name[id] .. (times[id] > 1 and "-" .. times[id] or "") .. after
  end)
  local function renamed(before, id, after) return before .. (name[id] or id) .. after end
  svg = svg:gsub('(href="#)([^"]+)(")', renamed)
  svg = svg:gsub("(url%(#)([^)]+)(%))", renamed)
  return svg
end

local function escape(text)
  return (text:gsub("[&<>\"]", { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;", ['"'] = "&quot;" }))
end

local function label(image)
  local alt = image.attributes["fig-alt"] or image.attributes["alt"]
  return alt or pandoc.utils.stringify(image.caption)
end

local function Image(image)
  local ours = image.src:find("_files/", 1, true) or image.classes:includes("inline")
  if not (ours and image.src:find("%.svg$")) then return nil end
  local svg = read((image.src:gsub("%%20", " ")))
  if not svg then return nil end
  svg = svg:gsub("^.-(<svg[%s>])", "%1", 1):gsub("<metadata>.-</metadata>%s*", ""):gsub("\r", "")
  svg = with_unique_ids(svg:gsub(INK, "currentColor"))
  svg = svg:gsub('(href="[^":]-)%.ipynb(["#])', "%1.html%2") -- the same link as in a notebook's text
  local head = svg:match("^<svg[^>]*>")
  local extra = ""
  if not head:find("%srole=") and not head:find("%saria%-") then
    local name = label(image)
    local role = svg:find("<a[%s>]") and "group" or "img"
    extra = name ~= "" and (' role="' .. role .. '" aria-label="' .. escape(name) .. '"') or ' aria-hidden="true"'
  end
  return pandoc.RawInline("html", "<svg" .. extra .. svg:sub(5))
end

local function Code(code)
  if utf8.len(code.text) > 24 or not code.text:find("[^%w_.()]") then return nil end
  code.classes:insert("short")
  return code
end

if not FORMAT:match("html") then return {} end
return { { Image = Image, Code = Code } }
