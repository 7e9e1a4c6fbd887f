"use strict";
// Language, theme, charts and the table of referred studies. Text from data goes in as text, never as HTML.
(() => {
  const root = document.documentElement;
  const byId = (id) => document.getElementById(id);
  const specs = JSON.parse(byId("chart-specs").textContent);
  const referred = JSON.parse(byId("referred-rows").textContent);
  const ROWS_PER_PAGE = 25;
  let language = root.dataset.language;

  const say = (key, values = {}) =>
    Object.entries(values).reduce((text, [name, value]) => text.replace(`{${name}}`, value), referred.texts[key][language]);
  const word = (code) => {
    const known = referred.codes[code] || referred.codes[String(code).replace(/^quality_/, "")];
    return known ? known[language] : String(code);
  };
  const words = (codes) => codes.split(";").filter(Boolean).map(word).join("; ");
  const element = (name, properties = {}, ...children) => {
    const made = Object.assign(document.createElement(name), properties);
    made.append(...children);
    return made;
  };

  function drawCharts() {
    const drawn = [...document.querySelectorAll("figure.chart")].map(async (figure) => {
      const spec = specs[language][figure.dataset.chart];
      figure.hidden = !spec;
      if (!spec) return;
      const canvas = figure.querySelector(".canvas");
      const title = figure.querySelector(`figcaption .t-${language}`);
      const described = { ...spec, description: title ? title.textContent : "" };
      await window.vegaEmbed(canvas, described, { actions: false, renderer: "svg", tooltip: { theme: "custom" } });
    });
    return Promise.all(drawn).then(() => { root.dataset.charts = language; });
  }

  function setLanguage(chosen) {
    language = chosen;
    root.dataset.language = chosen;
    root.lang = chosen === "en" ? "en" : "zh-Hans";
    document.title = say("title");
    for (const labelled of document.querySelectorAll("[data-en]")) {
      labelled.setAttribute("aria-label", labelled.dataset[chosen]);
    }
    byId("language").setAttribute("aria-label", say("language"));
    drawCharts();
    if (table) { drawHead(); fillFilters(); drawBody(); }
  }

  byId("language").addEventListener("click", () => setLanguage(language === "en" ? "zh" : "en"));
  byId("print").addEventListener("click", () => window.print());
  byId("theme").addEventListener("click", () => {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  });
  const table = byId("studies");
  const at = Object.fromEntries(referred.columns.map((name, index) => [name, index]));
  const numbered = referred.rows.map((row, number) => ({ row, number }));
  const order = { referral: { priority: 0, routine: 1, unreadable: 2 } };
  let sorting = { name: null, rising: true };
  let page = 0;

  const share = (value) => (value === null ? "–" : value.toFixed(2));
  const stage = (value) => (value === null ? "–" : word(`stage_${value}`));
  const text = (value) => (value === null ? "–" : String(value));
  // name, heading, cell content, cell class
  const shownColumns = [
    [null, "picture", (row, number) => pictureCell(row, number), ""],
    ["referral", "referral", (row) => element("span", { className: `badge ${row[at.referral]}` }, word(row[at.referral])), ""],
    ["dx_pred", "suspected", (row) => (row[at.dx_pred] === null ? "–" : word(row[at.dx_pred])), ""],
    ["stage_pred", "stage", (row) => stage(row[at.stage_pred]), "keep"],
    ["stage_before", "before", (row) => stage(row[at.stage_before]), "keep"],
    ["p_pneumoconiosis", "p_pneumoconiosis", (row) => share(row[at.p_pneumoconiosis]), "n"],
    ["p_tb", "p_tb", (row) => share(row[at.p_tb]), "n"],
    ["quality_grade", "quality_grade", (row) => (row[at.quality_grade] === null ? "–" : word(`grade_${row[at.quality_grade]}`)), ""],
    ["referral_reasons", "reasons", (row) => reasons(row), "why"],
    ["site", "site", (row) => word(row[at.site]), "keep"],
    ["year", "year", (row) => word(row[at.year]), "n"],
    ["age_band", "age", (row) => word(row[at.age_band]), "n"],
    ["sex", "sex", (row) => word(row[at.sex]), ""],
    ["study_pid", "study", (row) => text(row[at.study_pid]), "pid"],
  ];

  const reasons = (row) => words([row[at.referral_reasons], row[at.quality_flags]].filter(Boolean).join(";"));

  function pictureCell(row, number) {
    const uri = referred.pictures[number];
    if (!uri) return say("no_picture");
    const label = say("enlarge", { study: row[at.study_pid].slice(0, 8) });
    const button = element("button", { type: "button", className: "thumb" }, element("img", { src: uri, alt: "", loading: "lazy" }));
    button.setAttribute("aria-label", label);
    button.addEventListener("click", () => enlarge(row, uri));
    return button;
  }

  function enlarge(row, uri) {
    const dialog = byId("enlarged");
    const title = [word(row[at.referral]), row[at.dx_pred] && word(row[at.dx_pred]), row[at.study_pid]].filter(Boolean);
    dialog.querySelector("h3").textContent = title.join(" · ");
    Object.assign(dialog.querySelector("img"), { src: uri, alt: reasons(row) });
    dialog.showModal();
  }

  function drawHead() {
    const cells = shownColumns.map(([name, heading, , className]) => {
      const cell = element("th", { scope: "col", className });
      if (name === null) {
        cell.append(element("span", {}, say(heading)));
        return cell;
      }
      const button = element("button", { type: "button", title: say("sort_by", { column: say(heading) }) }, say(heading));
      button.dataset.sort = name;
      button.addEventListener("click", () => sortBy(name));
      if (sorting.name === name) cell.setAttribute("aria-sort", sorting.rising ? "ascending" : "descending");
      cell.append(button);
      return cell;
    });
    table.tHead.rows[0].replaceChildren(...cells);
  }

  function sortBy(name) {
    const numeric = typeof (referred.rows.find((row) => row[at[name]] !== null) || [])[at[name]] === "number";
    sorting = { name, rising: sorting.name === name ? !sorting.rising : !numeric };
    page = 0;
    drawHead();
    drawBody();
    table.querySelector(`[data-sort="${name}"]`).focus();
  }

  function compare(first, second) {
    const { name, rising } = sorting;
    const [left, right] = [first.row[at[name]], second.row[at[name]]];
    // What is not known comes last, whichever way the rest is sorted.
    if (left === null || right === null) return (left === null) - (right === null) || first.number - second.number;
    const [a, b] = order[name] ? [order[name][left], order[name][right]] : [left, right];
    const difference = typeof a === "number" ? a - b : String(a).localeCompare(String(b), undefined, { numeric: true });
    return (rising ? difference : -difference) || first.number - second.number;
  }

  function fillFilters() {
    for (const select of document.querySelectorAll("#filters select")) {
      const name = select.dataset.column;
      const values = [...new Set(referred.rows.map((row) => row[at[name]]))].filter((value) => value !== null);
      values.sort((a, b) => String(a).localeCompare(String(b), undefined, { numeric: true }));
      const chosen = select.value;
      const options = values.map((value) => element("option", { value: String(value) }, name === "stage_pred" ? stage(value) : word(value)));
      select.replaceChildren(element("option", { value: "" }, say("all")), ...options);
      select.value = chosen;
    }
  }

  function matching() {
    const chosen = [...document.querySelectorAll("#filters select")].filter((select) => select.value);
    const sought = byId("filter-text").value.trim().toLowerCase();
    const found = numbered.filter(({ row }) =>
      chosen.every((select) => String(row[at[select.dataset.column]]) === select.value) &&
      (!sought || [row[at.study_pid], row[at.site], reasons(row)].some((value) => String(value).toLowerCase().includes(sought))));
    return sorting.name === null ? found : found.sort(compare);
  }

  function drawBody() {
    const found = matching();
    const pages = Math.max(1, Math.ceil(found.length / ROWS_PER_PAGE));
    page = Math.min(page, pages - 1);
    const rows = found.slice(page * ROWS_PER_PAGE, (page + 1) * ROWS_PER_PAGE).map(({ row, number }) =>
      element("tr", {}, ...shownColumns.map(([name, , content, className]) => {
        const cell = element("td", { className }, content(row, number));
        if (name) cell.dataset.column = name;
        return cell;
      })));
    table.tBodies[0].replaceChildren(...rows);
    byId("shown").textContent = say("of", { shown: found.length.toLocaleString("en"), all: referred.rows.length.toLocaleString("en") });
    byId("page-of").textContent = say("page_of", { page: page + 1, pages });
    byId("previous").disabled = page === 0;
    byId("next").disabled = page >= pages - 1;
  }

  function saveCsv() {
    const quote = (value) => {
      const plain = value === null ? "" : String(value);
      const safe = /^[=+\-@\t\r]/.test(plain) && Number.isNaN(Number(plain)) ? `'${plain}` : plain;
      return /[",\n\r]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
    };
    const lines = [referred.columns, ...matching().map(({ row }) => row)].map((row) => row.map(quote).join(","));
    const blob = new Blob(["\ufeff", lines.join("\r\n"), "\r\n"], { type: "text/csv" });
    const link = element("a", { href: URL.createObjectURL(blob), download: "worklist.csv" });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }

  if (table) {
    byId("filters").addEventListener("submit", (event) => event.preventDefault());
    for (const kind of ["input", "change"]) byId("filters").addEventListener(kind, () => { page = 0; drawBody(); });
    byId("previous").addEventListener("click", () => { page -= 1; drawBody(); });
    byId("next").addEventListener("click", () => { page += 1; drawBody(); });
    byId("save").addEventListener("click", saveCsv);
    byId("enlarged").querySelector("button").addEventListener("click", () => byId("enlarged").close());
  }
  setLanguage(language);
})();
