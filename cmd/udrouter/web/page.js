'use strict';
// All text of others goes into the page as text, never as markup.

const every = 1000; // ms
const most = 60; // guests that are drawn: those with most traffic
const $ = id => document.getElementById(id);
let last = null;

function scaled(v) {
  const units = ['', 'k', 'M', 'G', 'T', 'P'];
  let i = 0;
  for (; v >= 999.5 && i < units.length - 1; i++) v /= 1000;
  return (i > 0 && v < 9.95 ? v.toFixed(1) : v.toFixed(0)) + units[i];
}

// per is the growth of a counter a second; one that has become less belongs to another process.
function per(was, is, seconds) {
  return was === undefined || is < was || seconds <= 0 ? 0 : (is - was) / seconds;
}

function rates(list, before, seconds) {
  const known = new Map((before || []).map(x => [x.name, x]));
  return list.map(x => {
    const w = known.get(x.name) || {};
    return {
      name: x.name, side: x.side, flows: x.flows, total: x.drops || 0,
      rx: 8 * per(w.rx_bytes, x.rx_bytes, seconds), tx: 8 * per(w.tx_bytes, x.tx_bytes, seconds), drops: per(w.drops, x.drops, seconds),
    };
  });
}

function draw(kind, parent, attributes, text) {
  const e = document.createElementNS('http://www.w3.org/2000/svg', kind);
  for (const [k, v] of Object.entries(attributes)) e.setAttribute(k, v);
  if (text !== undefined) e.textContent = text;
  parent.append(e);
  return e;
}

const wide = 190, column = 236; // of a box, and from one to the next

function box(svg, role, x, y, name, lines) {
  const g = draw('g', svg, { class: role });
  draw('rect', g, { x: x + .5, y: y + .5, width: wide, height: 20 + 16 * lines.length, rx: 4 });
  draw('text', g, { x: x + 8, y: y + 15, class: 'name' }, name.length > 24 ? name.slice(0, 23) + '…' : name);
  lines.forEach((l, i) => draw('text', g, { x: x + 8, y: y + 31 + 16 * i, class: i === 1 ? 'drops' : '' }, l));
}

// width of a line: one more for each tenfold of a kilobit a second.
const width = bits => 1 + Math.max(0, Math.log10(bits / 1000));

// network draws the uplink on the left, the router in the middle with dom0 below it, and on the right the guests' TAP and the guests.
function network(links, guests) {
  const svg = $('network');
  const shown = [...guests].sort((a, b) => b.rx + b.tx - a.rx - a.tx || (a.name < b.name ? -1 : 1)).slice(0, most);
  const step = 60, rows = Math.max(shown.length, 3) * step, height = rows + (guests.length > shown.length ? 20 : 0), middle = rows / 2;
  svg.replaceChildren();
  svg.setAttribute('viewBox', `0 0 900 ${height}`);
  for (const l of links) {
    const rate = [`${scaled(l.rx)}bit/s in, ${scaled(l.tx)}bit/s out`], stroke = { 'stroke-width': width(l.rx + l.tx) };
    switch (l.side) {
      case 'guests':
        draw('line', svg, { x1: column + wide, y1: middle, x2: 2 * column, y2: middle, ...stroke });
        box(svg, 'tap', 2 * column, middle - 18, l.name, rate);
        break;
      case 'host':
        draw('line', svg, { x1: column + wide / 2, y1: middle + 18, x2: column + wide / 2, y2: middle + 48, ...stroke });
        box(svg, 'host', column, middle + 48, `${l.name} (dom0)`, rate);
        break;
      default:
        draw('line', svg, { x1: wide, y1: middle, x2: column, y2: middle, ...stroke });
        box(svg, 'uplink', 0, middle - 18, l.name, rate);
    }
  }
  box(svg, 'router', column, middle - 18, 'udrouter', [`${guests.length} guests`]);
  shown.forEach((g, i) => {
    const y = i * step;
    draw('line', svg, { x1: 2 * column + wide, y1: middle, x2: 3 * column, y2: y + 26, 'stroke-width': width(g.rx + g.tx) });
    box(svg, g.drops > 0 ? 'guest dropping' : 'guest', 3 * column, y, g.name, [`rx ${scaled(g.rx)}bit/s, tx ${scaled(g.tx)}bit/s`, `${g.flows} flows, ${scaled(g.drops)} drops/s`]);
  });
  if (guests.length > shown.length) draw('text', svg, { x: 3 * column, y: height - 5 }, `and ${guests.length - shown.length} more`);
}

function cell(row, text, number) {
  const td = row.insertCell();
  td.textContent = text;
  if (number) td.className = 'number';
}

function drops(status, before, seconds) {
  const body = $('drops').tBodies[0];
  body.replaceChildren();
  const list = Object.entries(status.drops).map(([reason, n]) => ({ reason, n, rate: per(before ? before.drops[reason] || 0 : undefined, n, seconds) }));
  list.sort((a, b) => b.rate - a.rate || b.n - a.n);
  for (const d of list) {
    const row = body.insertRow();
    cell(row, d.reason);
    cell(row, d.n, true);
    cell(row, scaled(d.rate), true);
    const guests = status.domus.filter(g => g.drop_reasons[d.reason]).sort((a, b) => b.drop_reasons[d.reason] - a.drop_reasons[d.reason]);
    cell(row, guests.slice(0, 5).map(g => `${g.name} ${g.drop_reasons[d.reason]}`).join(', ') + (guests.length > 5 ? ` and ${guests.length - 5} more` : ''));
  }
  if (!list.length) cell(body.insertRow(), 'none');
}

function take(status, at) {
  const seconds = last ? (at - last.at) / 1000 : 0, before = last && last.status;
  const guests = rates(status.domus, before && before.domus, seconds);
  $('about').textContent = `${status.version}, up ${Math.round(status.uptime_s)} s, ${status.flows.active} of ${status.flows.max} flows, ${status.flows.offloaded} in the kernel`;
  $('trouble').textContent = status.warnings.join(' ');
  network(rates(status.links, before && before.links, seconds), guests);
  drops(status, before, seconds);
  const ends = $('ends');
  if (ends.options.length !== 2 + guests.length) {
    ends.replaceChildren(...['uplink', 'host', ...guests.map(g => 'domu:' + g.name)].map(v => Object.assign(document.createElement('option'), { value: v })));
  }
  last = { status, at };
}

async function look() {
  try {
    const r = await fetch('v1/status');
    if (!r.ok) throw new Error(await r.text());
    take(await r.json(), performance.now());
    document.body.dataset.looks = 1 + Number(document.body.dataset.looks || 0);
  } catch (e) {
    $('trouble').textContent = e.message;
  }
  setTimeout(look, every);
}

async function explain(form) {
  const query = new URLSearchParams([...new FormData(form)].filter(([, v]) => v !== ''));
  const answer = $('answer');
  try {
    const r = await fetch('v1/explain?' + query);
    if (!r.ok) throw new Error(await r.text());
    const list = await r.json();
    answer.textContent = list.map(a => a.lines).join('\n\n');
    answer.className = list.some(a => a.verdict !== 'accept') ? list.find(a => a.verdict !== 'accept').verdict : 'accept';
  } catch (e) {
    answer.textContent = e.message;
    answer.className = 'wrong';
  }
}

$('explain').addEventListener('submit', e => {
  e.preventDefault();
  explain(e.target);
});

// An address that ends in #from=domu:one&dst=198.51.100.7&proto=tcp&port=25 asks at once.
const asked = new URLSearchParams(location.hash.slice(1));
if (asked.size) {
  for (const [k, v] of asked) if ($('explain').elements[k]) $('explain').elements[k].value = v;
  explain($('explain'));
}
look();
