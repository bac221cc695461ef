// The book's only script: theme, chapter drawer, search, tabs, copying, contents. Everything else works without it.
"use strict"
const one = (query, root = document) => root.querySelector(query)
const all = (query, root = document) => [...root.querySelectorAll(query)]
const make = (tag, properties = {}, ...children) => {
  const node = Object.assign(document.createElement(tag), properties)
  node.append(...children)
  return node
}
const remember = (key, value) => { try { localStorage.setItem(key, value) } catch { /* a browser that forgets */ } }
const root = document.body.dataset.root
const html = document.documentElement

// Light and dark: the system's choice until the reader makes one.
const system = matchMedia("(prefers-color-scheme: dark)")
const isDark = () => html.dataset.theme ? html.dataset.theme === "dark" : system.matches
one(".bar .theme").addEventListener("click", () => {
  html.dataset.theme = isDark() ? "light" : "dark"
  remember("theme", html.dataset.theme)
})
addEventListener("storage", event => { if (event.key === "theme" && event.newValue) html.dataset.theme = event.newValue })

// The chapters: a column on wide screens, a drawer on narrow ones.
const menu = one(".bar .menu"), veil = one(".veil"), sidebar = one("#sidebar")
const drawer = open => {
  document.body.classList.toggle("drawer", open)
  menu.setAttribute("aria-expanded", open)
  veil.hidden = !open
  one(".page").inert = open
  if (open) (one("[aria-current]", sidebar) ?? one("a", sidebar))?.focus()
}
menu.addEventListener("click", () => drawer(!document.body.classList.contains("drawer")))
veil.addEventListener("click", () => drawer(false))
matchMedia("(max-width: 58rem)").addEventListener("change", () => drawer(false))
const current = one("[aria-current]", sidebar)
if (current) sidebar.scrollTop = current.offsetTop - sidebar.clientHeight / 2

// Headings can be linked to, code can be copied.
for (const heading of all("main :is(h2, h3, h4)[id]"))
  heading.append(make("a", { className: "heading-link", href: "#" + heading.id, textContent: "#", ariaLabel: "Link to this section" }))
if (navigator.clipboard) for (const block of all("main div.sourceCode")) {
  const button = make("button", { className: "copy", type: "button", textContent: "Copy" })
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(one("code", block).innerText.replace(/\n$/, ""))
    button.textContent = "Copied"
    setTimeout(() => button.textContent = "Copy", 1500)
  })
  block.append(button)
}

// Tabs
all("main .tabset").forEach((set, number) => {
  const panels = [...set.children], list = make("div", { className: "tabs", role: "tablist" })
  const choose = index => panels.forEach((panel, i) => {
    panel.hidden = i !== index
    list.children[i].ariaSelected = i === index
    list.children[i].tabIndex = i === index ? 0 : -1
  })
  panels.forEach((panel, i) => {
    const tab = make("button", { type: "button", role: "tab", id: `tab-${number}-${i}` })
    tab.innerHTML = one(".tab-title", panel).innerHTML
    tab.addEventListener("click", () => choose(i))
    panel.setAttribute("role", "tabpanel")
    panel.setAttribute("aria-labelledby", tab.id)
    list.append(tab)
  })
  list.addEventListener("keydown", event => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key]
    if (!step) return
    const next = (panels.findIndex(panel => !panel.hidden) + step + panels.length) % panels.length
    choose(next)
    list.children[next].focus()
  })
  set.prepend(list)
  set.classList.add("ready")
  choose(0)
})

// What a link points to is never left folded.
const reveal = () => {
  const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)))
  if (!target) return
  const fold = target.closest("details:not([open])")
  if (fold) { fold.open = true; target.scrollIntoView() }
}
addEventListener("hashchange", reveal)
reveal()
let unfolded = []
addEventListener("beforeprint", () => {
  unfolded = all("main :is(.callout, .code-fold):not([open])")
  unfolded.forEach(fold => fold.open = true)
})
addEventListener("afterprint", () => unfolded.forEach(fold => fold.open = false))

// The contents of the page follow the reader.
const links = all(".toc a"), places = links.map(link => document.getElementById(decodeURIComponent(link.hash.slice(1))))
const follow = () => {
  let now = 0
  places.forEach((place, i) => { if (place && place.getBoundingClientRect().top < innerHeight * .28) now = i })
  if (places.length && scrollY + innerHeight > html.scrollHeight - 4) now = places.length - 1
  links.forEach((link, i) => link.classList.toggle("now", i === now))
}
let waiting = false
if (links.length) {
  addEventListener("scroll", () => { if (!waiting) requestAnimationFrame(() => { follow(); waiting = false }); waiting = true }, { passive: true })
  follow()
}

// Search: words by their beginnings, signs wherever they stand; titles before text.
const finder = one(".finder"), field = one("input", finder), found = one("#found"), none = one(".none", finder)
const fold = text => text.normalize("NFD").replace(/\p{M}/gu, "").toLowerCase()
let rows = null, chosen = 0
const load = () => new Promise((done, failed) => {
  if (rows) return done()
  const script = make("script", { src: root + "theme/search-index.js", onerror: failed })
  script.onload = () => {
    rows = window.searchIndex.map(([url, page, section, text]) => ({ url, page, section, text, low: fold(text), head: fold(section || page), top: fold(page) }))
    done()
  }
  document.head.append(script)
})
const starts = word => new RegExp((/^[\p{L}\p{N}]/u.test(word) ? "(^|[^\\p{L}\\p{N}])" : "()") + word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"), "u")
const rank = (row, words) => {
  let score = 0
  for (const { text, test } of words) {
    let here = 0
    if (test.test(row.head)) here += row.section ? 60 : 100
    if (row.head === text) here += 60
    if (test.test(row.top)) here += 12
    const at = row.low.search(test)
    if (at >= 0) here += 10 + 8 / (1 + at / 200)
    if (!here) return 0
    score += here
  }
  return score
}
const marked = (text, words) => {
  const low = fold(text), spans = []
  if (low.length !== text.length) return [text]
  for (const { text: word } of words) for (const hit of low.matchAll(new RegExp(starts(word), "gu"))) spans.push([hit.index + hit[1].length, hit.index + hit[0].length])
  const parts = []
  let end = 0
  for (const [from, to] of spans.sort((a, b) => a[0] - b[0])) if (from >= end) { parts.push(text.slice(end, from), make("mark", { textContent: text.slice(from, to) })); end = to }
  return [...parts, text.slice(end)]
}
const snippet = (row, words) => {
  const at = Math.max(0, Math.min(...words.map(word => row.low.search(word.test)).filter(i => i >= 0)))
  const from = Number.isFinite(at) && at > 60 ? row.text.lastIndexOf(" ", at - 40) + 1 : 0
  const text = row.text.slice(from, from + 190)
  return (from ? "… " : "") + text + (from + 190 < row.text.length ? " …" : "")
}
const choose = index => {
  const items = [...found.children]
  if (!items.length) return field.removeAttribute("aria-activedescendant")
  chosen = (index + items.length) % items.length
  items.forEach((item, i) => item.ariaSelected = i === chosen)
  items[chosen].scrollIntoView({ block: "nearest" })
  field.setAttribute("aria-activedescendant", items[chosen].id)
}
const search = () => {
  if (!rows) return
  const words = fold(field.value).split(/\s+/).filter(Boolean).map(text => ({ text, test: starts(text) }))
  const hits = words.length ? rows.map(row => ({ row, score: rank(row, words) })).filter(hit => hit.score).sort((a, b) => b.score - a.score).slice(0, 20) : []
  found.replaceChildren(...hits.map(({ row }, i) => make("li", { id: "hit-" + i, role: "option" },
    make("a", { href: root + row.url, tabIndex: -1 },
      make("b", {}, ...marked(row.section || row.page, words)), make("span", { className: "where", textContent: row.section ? "  " + row.page : "" }),
      make("span", { className: "text" }, ...marked(snippet(row, words), words))))))
  none.textContent = words.length && !hits.length ? "Nothing found. The search knows words by their beginnings." : ""
  field.ariaExpanded = hits.length > 0
  choose(0)
}
const openFinder = async () => {
  drawer(false)
  if (!finder.open) finder.showModal()
  field.select()
  try { await load(); search() } catch { none.textContent = "The search index could not be loaded." }
}
one(".bar .search").addEventListener("click", openFinder)
field.addEventListener("input", search)
field.addEventListener("keydown", event => {
  if (event.key === "ArrowDown") choose(chosen + 1)
  else if (event.key === "ArrowUp") choose(chosen - 1)
  else if (event.key === "Escape") finder.close() // a search field would only be emptied
  else if (event.key === "Enter") { const link = one("a", found.children[chosen]); finder.close(); if (link) location.href = link.href }
  else return
  event.preventDefault()
})
finder.addEventListener("click", event => { if (event.target === finder || event.target.closest("a")) finder.close() })
addEventListener("keydown", event => {
  const typing = event.target.closest?.("input, textarea, select, [contenteditable]")
  if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) { event.preventDefault(); openFinder() }
  if (event.key === "Escape" && document.body.classList.contains("drawer")) { drawer(false); menu.focus() }
})
