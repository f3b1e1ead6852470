-- In the Markdown pages (NAME.html.md) a link to a notebook leads to that notebook's own Markdown page.
function Link(link)
  local path, anchor = link.target:match('^([^:#]*)%.ipynb(#?.*)$')
  if path then link.target = path:gsub('%d%d_([^/]*)$', '%1') .. '.html.md' .. anchor end
  return link
end
