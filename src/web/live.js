'use strict';
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const main = document.getElementById('main');
  const status = document.getElementById('live-status');
  const toggle = document.getElementById('live-switch');
  const QUIET = 1500;

  // Times are written in UTC; the reader's own time is added beside them.
  const two = number => String(number).padStart(2, '0');
  const clock = date => [date.getHours(), date.getMinutes(), date.getSeconds()].map(two).join(':');
  const zone = date => {
    const minutes = -date.getTimezoneOffset();
    const size = Math.abs(minutes);
    return `UTC${minutes < 0 ? '−' : '+'}${Math.floor(size / 60)}${size % 60 ? ':' + two(size % 60) : ''}`;
  };
  const day = date => `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
  const local = date => `${day(date)} ${clock(date)} ${zone(date)}`;
  const short = date => {
    const isSameDay = day(date) === date.toISOString().slice(0, 10);
    return `${isSameDay ? '' : day(date).slice(5) + ' '}${clock(date)} ${zone(date)}`;
  };
  const dress = root => {
    for (const time of all('time[datetime]', root)) {
      const date = new Date(time.dateTime);
      if (Number.isNaN(date.getTime())) continue;
      time.title = local(date);
      const beside = time.nextElementSibling;
      if (beside && beside.matches('.local') && date.getTimezoneOffset()) beside.textContent = short(date);
    }
    for (const button of all('button[data-copy]', root)) button.hidden = false;
  };

  const copy = async text => {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      // Over http there is no clipboard but this one.
      const field = Object.assign(document.createElement('textarea'), { value: text });
      document.body.append(field);
      field.select();
      document.execCommand('copy');
      field.remove();
    }
  };
  document.addEventListener('click', async event => {
    const button = event.target.closest('button[data-copy]');
    if (!button) return;
    await copy(button.dataset.copy);
    button.classList.add('done');
    setTimeout(() => button.classList.remove('done'), QUIET);
  });

  const regions = () => all('[data-live]', main);
  const seen = new Map(regions().map(region => [region.id, region.innerHTML]));
  dress(document);
  const every = Number(main.dataset.every) * 1000;
  if (!every || !status || !seen.size) return;

  // Nothing changes under a pointer that moves or is pressed, under a selection, or in a field that is filled in.
  let isPressed = false, isPaused = false, isBusy = false, moved = -QUIET;
  const note = () => { moved = performance.now(); };
  const press = pressed => () => { isPressed = pressed; note(); };
  addEventListener('pointermove', note, true);
  addEventListener('pointerdown', press(true), true);
  addEventListener('pointerup', press(false), true);
  addEventListener('pointercancel', press(false), true);
  const isHeld = () => {
    const selection = getSelection();
    return document.hidden || isPaused || isPressed || performance.now() - moved < QUIET
      || (selection.type === 'Range' && main.contains(selection.anchorNode))
      || document.activeElement?.matches('[data-live] :is(input, select, textarea)');
  };

  const keyed = key => key && main.querySelector(`[data-key="${CSS.escape(key)}"]`);
  const focusable = 'a, button, summary';
  const swap = fresh => {
    const rows = all('[data-live] [data-key]', main);
    const hovered = rows.filter(row => row.matches(':hover')).pop();
    const anchor = hovered || (scrollY > 0 && rows.find(row => row.getBoundingClientRect().bottom > 0));
    const top = anchor && anchor.getBoundingClientRect().top;
    const focused = document.activeElement;
    const owner = focused?.closest('[data-live] [data-key]');
    const place = owner ? all(focusable, owner).indexOf(focused) : -1;
    for (const region of regions()) {
      const next = fresh.getElementById(region.id);
      if (!next || next.innerHTML === seen.get(region.id)) continue;
      const open = new Map(all('details[data-key]', region).map(it => [it.dataset.key, it.open]));
      seen.set(region.id, next.innerHTML);
      region.innerHTML = next.innerHTML;
      for (const it of all('details[data-key]', region)) it.open = open.get(it.dataset.key) ?? it.open;
      dress(region);
    }
    const again = owner && keyed(owner.dataset.key);
    if (again && place >= 0) all(focusable, again)[place]?.focus({ preventScroll: true });
    const moves = anchor && keyed(anchor.dataset.key);
    if (moves) scrollBy({ top: moves.getBoundingClientRect().top - top, behavior: 'instant' });
  };

  const say = (name, time) => {
    status.textContent = status.dataset[name] + (time ? ' ' + time : '');
    status.dataset.state = name;
  };
  let last = clock(new Date());
  const refresh = async () => {
    if (isBusy || isHeld()) return;
    isBusy = true;
    try {
      const response = await fetch(location.href, { cache: 'no-store' });
      const page = new DOMParser().parseFromString(await response.text(), 'text/html');
      if (!response.ok) {
        say(response.status === 401 ? 'out' : 'lost', last);
      } else if (!isHeld()) {
        swap(page);
        last = clock(new Date());
        say('on', last);
      }
    } catch {
      say('lost', last);
    } finally {
      isBusy = false;
    }
  };
  toggle.hidden = status.hidden = false;
  toggle.addEventListener('click', () => {
    isPaused = !isPaused;
    toggle.textContent = isPaused ? toggle.dataset.off : toggle.dataset.on;
    say(isPaused ? 'paused' : 'on', last);
  });
  say('on', last);
  setInterval(refresh, every);
})();
