// The page of a report: its table, its plots, its theme, and, where it is served live, its refreshing.
"use strict";
(() => {
  const find = (selector, root = document) => root.querySelector(selector);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const root = document.documentElement;

  // The table of trials. What was chosen is kept here, as a refresh brings a new table.
  const view = { key: "", descending: false, text: "", state: "" };

  function valueOf(cell, numeric) {
    if (!numeric) return cell.textContent;
    return cell.dataset.value === undefined ? "" : Number(cell.dataset.value);
  }

  function compare(left, right, descending) {
    if (left === "" || right === "") return (left === "") - (right === ""); // what is missing comes last, either way
    const order = typeof left === "number" ? left - right : left.localeCompare(right, undefined, { numeric: true });
    return descending ? -order : order;
  }

  function sort() {
    const heads = all("#table th[data-key]");
    const index = heads.findIndex((head) => head.dataset.key === view.key);
    if (index < 0) return;
    const numeric = heads[index].classList.contains("number");
    heads.forEach((head, at) => {
      head.setAttribute("aria-sort", at !== index ? "none" : view.descending ? "descending" : "ascending");
    });
    const rows = all("#table tbody tr").map((row) => [valueOf(row.cells[index], numeric), row]);
    rows.sort((a, b) => compare(a[0], b[0], view.descending));
    find("#table tbody").append(...rows.map(([, row]) => row));
  }

  const COMPARISONS = {
    "<": (a, b) => a < b, ">": (a, b) => a > b, "<=": (a, b) => a <= b, ">=": (a, b) => a >= b, "=": (a, b) => a === b,
  };

  // A term of the filter as a test of rows: "lr<0.01" where there is such a column, else a word that the row has.
  function test(term) {
    const [, name, sign, wanted] = term.match(/^([^<>=]+)(<=|>=|<|>|=)(.+)$/) || [];
    const heads = all("#table th[data-key]");
    const same = (head) => [head.dataset.key, head.textContent].some((key) => key === name || key.endsWith(`.${name}`));
    const index = name ? heads.findIndex(same) : -1;
    if (index < 0) return (row) => row.textContent.toLowerCase().includes(term.toLowerCase());
    return ({ cells: { [index]: cell } }) => {
      if (sign === "=" && cell.textContent.toLowerCase() === wanted.toLowerCase()) return true;
      return cell.dataset.value !== undefined && COMPARISONS[sign](Number(cell.dataset.value), Number(wanted));
    };
  }

  function filter() {
    const tests = view.text.split(/\s+/).filter(Boolean).map(test);
    const rows = all("#table tbody tr");
    for (const row of rows) {
      row.hidden = (view.state && row.dataset.state !== view.state) || !tests.every((holds) => holds(row));
    }
    const shown = rows.filter((row) => !row.hidden).length;
    if (rows.length) find("#shown").value = shown === rows.length ? `${shown} trials` : `${shown} of ${rows.length} trials`;
  }

  function restoreTable() {
    if (!find("#table")) return;
    find("#filter").value = view.text;
    find("#state").value = view.state;
    sort();
    filter();
  }

  // Plots: drawn when they come near the window, in the colours of the page.
  function color(name) {
    const probe = document.body.appendChild(document.createElement("i"));
    probe.style.color = `var(--${name})`; // a variable would still say light-dark(...)
    const found = getComputedStyle(probe).color;
    probe.remove();
    return found;
  }

  const dark = () => getComputedStyle(root).colorScheme === "dark"
    || (!root.dataset.theme && matchMedia("(prefers-color-scheme: dark)").matches);

  function draw(area) {
    const { data, layout } = JSON.parse(find("script", area.closest("figure")).textContent);
    const small = innerWidth <= 600; // there a finger that moves over a plot is to move the page
    const page = {
      font: { ...layout.font, color: color("text"), family: getComputedStyle(document.body).fontFamily },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: color("soft"), activecolor: color("accent") },
      hoverlabel: { ...layout.hoverlabel, bgcolor: color("card"), bordercolor: color("line"), font: { color: color("text") } },
      autosize: true, uirevision: "kept", dragmode: small ? false : layout.dragmode,
    };
    return Plotly.react(area, data, { ...layout, ...page }, {
      responsive: true, displaylogo: false, displayModeBar: small ? false : "hover",
      modeBarButtonsToRemove: ["sendChartToCloud", "select2d", "lasso2d", "autoScale2d"], // the first would send data out
    });
  }

  const seen = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (isIntersecting) {
        seen.unobserve(target);
        draw(target);
      }
    }
  }, { rootMargin: "600px" });
  const drawn = () => all(".area").filter((area) => area.data);
  const watchPlots = (within) => all(".area", within).forEach((area) => seen.observe(area));

  // Light and dark.
  function remembered(theme) {
    try { // some browsers keep nothing for files
      if (theme) localStorage.setItem("theme", theme);
      return localStorage.getItem("theme");
    } catch {
      return null;
    }
  }

  function show(theme) {
    if (theme) root.dataset.theme = theme;
    else delete root.dataset.theme;
    drawn().forEach(draw);
  }

  // Live: sections that have changed are put in their places; scrolling, sorting and filtering stay as they are.
  function put(fresh) {
    const section = document.getElementById(fresh.id);
    if (all("audio", section).some((audio) => !audio.paused)) return; // next time
    const anchor = all("main > section").find((one) => one.getBoundingClientRect().bottom > 0);
    const before = anchor.getBoundingClientRect().top;
    const area = find(".area", section);
    const parsed = new DOMParser().parseFromString(fresh.html, "text/html");
    if (area && find(".area", parsed)) { // drawn again in its place, it keeps its zoom
      find("script", section).textContent = find("script", parsed).textContent;
      find("figcaption", section).replaceWith(find("figcaption", parsed));
      area.style.height = find(".area", parsed).style.height;
      if (area.data) draw(area);
    } else {
      replace(section, fresh.html);
      watchPlots(section);
    }
    section.dataset.version = fresh.version;
    scrollBy(0, anchor.getBoundingClientRect().top - before);
  }

  function replace(section, html) {
    const scrolled = all(".scroll", section).map((one) => [one.scrollLeft, one.scrollTop]);
    const open = all("details", section).map((one) => one.open);
    const focus = section.contains(document.activeElement) ? document.activeElement : null;
    const caret = focus && focus.type === "search" ? focus.selectionStart : null;
    section.innerHTML = html;
    all("details", section).forEach((one, at) => { one.open = open[at]; });
    if (find("#table", section)) restoreTable();
    all(".scroll", section).forEach((one, at) => { [one.scrollLeft, one.scrollTop] = scrolled[at] || [0, 0]; });
    const again = focus && (focus.id ? document.getElementById(focus.id) : null);
    if (again) again.focus({ preventScroll: true });
    if (again && caret !== null) again.setSelectionRange(caret, caret);
  }

  async function refresh() {
    const live = find("#live");
    const have = all("main > section").map((section) => [section.id, section.dataset.version]);
    try {
      const answer = await fetch(`changes?${new URLSearchParams(have)}`, { cache: "no-store" });
      const { sections, made, error } = await answer.json();
      sections.forEach(put);
      live.classList.toggle("gone", Boolean(error));
      live.value = error || `live, as of ${made}`;
    } catch {
      live.classList.add("gone");
      live.value = "the server has gone; this is the last it said";
    }
  }

  document.addEventListener("click", ({ target }) => {
    const head = target.closest("#table th[data-key]");
    if (head) {
      view.descending = head.getAttribute("aria-sort") === "ascending";
      view.key = head.dataset.key;
      sort();
    } else if (target.closest("#theme")) {
      show(remembered(dark() ? "light" : "dark") || (dark() ? "light" : "dark"));
    } else if (target.closest(".copy")) {
      navigator.clipboard.writeText(find("code", target.parentElement).textContent);
      target.textContent = "Copied";
    }
  });
  document.addEventListener("input", ({ target }) => {
    if (target.id === "filter") view.text = target.value;
    if (target.id === "state") view.state = target.value;
    filter();
  });
  let shown = root.dataset.theme;
  addEventListener("beforeprint", () => {
    shown = root.dataset.theme;
    root.dataset.theme = "light";
    all(".area").forEach(draw);
  });
  addEventListener("afterprint", () => show(shown));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawn().forEach(draw));

  if (!navigator.clipboard) all(".copy").forEach((button) => { button.hidden = true; });
  show(remembered());
  watchPlots(document);
  const pause = Number(document.body.dataset.live);
  if (pause) {
    refresh();
    setInterval(() => document.hidden || refresh(), pause);
  }
})();
