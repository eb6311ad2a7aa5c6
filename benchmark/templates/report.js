"use strict";
// Sorting and filtering of the tables, and a button that copies a command. Without it all is readable.
(() => {
  const text = (cell) => cell.textContent.trim();
  const number = (cell) => parseFloat(text(cell).replace("\u2212", "-"));
  const make = (tag, properties, ...children) => {
    const node = Object.assign(document.createElement(tag), properties);
    node.append(...children);
    return node;
  };

  function sorter(table, heads, rows) {
    const body = table.tBodies[0];
    return (column, direction) => {
      const numeric = heads[column].classList.contains("number");
      const value = numeric ? number : text;
      const empty = (one) => (numeric ? Number.isNaN(one) : one === "");
      const sign = direction === "descending" ? -1 : 1;
      const order = rows.map((row, at) => ({ row, at, value: value(row.cells[column]) }));
      if (direction) {
        order.sort((a, b) => {
          if (empty(a.value) || empty(b.value)) return empty(a.value) - empty(b.value) || a.at - b.at;
          const by = numeric ? a.value - b.value : a.value.localeCompare(b.value);
          return sign * by || a.at - b.at;
        });
      }
      heads.forEach((head) => head.removeAttribute("aria-sort"));
      if (direction) heads[column].setAttribute("aria-sort", direction);
      body.append(...order.map((one) => one.row));
    };
  }

  function sortable(heads, sort) {
    const after = { none: "ascending", ascending: "descending", descending: "" };
    heads.forEach((head, column) => {
      const button = make("button", { type: "button", title: "sort" }, ...head.childNodes);
      button.addEventListener("click", () => sort(column, after[head.getAttribute("aria-sort") || "none"]));
      head.append(button);
    });
  }

  function choice(label, names) {
    const options = names.map((name, at) => make("option", { value: String(at) }, name));
    const select = make("select", {}, make("option", { value: "" }, label), ...options);
    select.setAttribute("aria-label", label);
    return select;
  }

  // A column of a few short words can be chosen from.
  function words(head, column, rows) {
    if (head.classList.contains("number")) return null;
    const found = [...new Set(rows.map((row) => text(row.cells[column])))].filter((one) => one);
    const short = found.every((one) => one.length < 30);
    return short && found.length > 1 && found.length < 16 && found.length < rows.length ? found : null;
  }

  function orders(heads, sort) {
    const names = heads.flatMap((head) => [`${text(head)}, rising`, `${text(head)}, falling`]);
    const select = choice("sort by", names);
    select.className = "order";
    select.addEventListener("change", () => {
      const at = Number(select.value || 0);
      sort(at >> 1, select.value === "" ? "" : at % 2 ? "descending" : "ascending");
    });
    return select;
  }

  function filters(heads, rows, title) {
    const find = make("input", { type: "search", placeholder: "filter rows" });
    find.setAttribute("aria-label", `filter the rows of ${title}`);
    const count = make("output", {});
    const choices = heads.flatMap((head, column) => {
      const names = words(head, column, rows);
      return names ? [{ column, names, select: choice(`any ${text(head).toLowerCase()}`, names) }] : [];
    });
    const texts = rows.map((row) => text(row).replace(/\s+/g, " ").toLowerCase());
    const show = () => {
      const asked = find.value.toLowerCase().split(/\s+/).filter((one) => one);
      let left = 0;
      rows.forEach((row, at) => {
        const chosen = choices.every(
          (one) => one.select.value === "" || text(row.cells[one.column]) === one.names[Number(one.select.value)]
        );
        row.hidden = !(chosen && asked.every((one) => texts[at].includes(one)));
        left += row.hidden ? 0 : 1;
      });
      count.textContent = left < rows.length ? `${left} of ${rows.length} rows` : `${rows.length} rows`;
    };
    find.addEventListener("input", show);
    choices.forEach((one) => one.select.addEventListener("change", show));
    show();
    return [find, ...choices.map((one) => one.select), count];
  }

  // On a phone a row is a card: what stands beside the names and the numbers with a spread is folded away.
  function folding(table, heads, rows) {
    const key = (head, column) =>
      head.classList.contains("number")
        ? rows.some((row) => row.cells[column].querySelector("small"))
        : !head.classList.contains("sees");
    const extra = heads.flatMap((head, column) => (key(head, column) ? [] : [column]));
    if (extra.length < 4 || extra.length > heads.length - 2) return [];
    rows.forEach((row) => extra.forEach((column) => row.cells[column].classList.add("extra")));
    table.classList.add("folded");
    const button = make("button", { type: "button", className: "plain-button more" }, "show all columns");
    button.setAttribute("aria-expanded", "false");
    button.addEventListener("click", () => {
      const folded = table.classList.toggle("folded");
      button.setAttribute("aria-expanded", String(!folded));
      button.textContent = folded ? "show all columns" : "show fewer columns";
    });
    return [button];
  }

  document.querySelectorAll("figure.table").forEach((figure) => {
    const table = figure.querySelector("table");
    const heads = [...table.tHead.rows[0].cells];
    const rows = [...table.tBodies[0].rows];
    if (rows.length < 2 || rows.some((row) => row.cells.length !== heads.length)) return;
    const title = (figure.querySelector("h2, h3") || { textContent: "this table" }).textContent;
    const sort = sorter(table, heads, rows);
    const order = orders(heads, sort);
    const plain = rows.length < 5 || figure.classList.contains("short");
    const cards = figure.classList.contains("wide") ? [] : [order, ...folding(table, heads, rows)];
    const tools = [...(plain ? [] : filters(heads, rows, title)), ...cards];
    sortable(heads, sort);
    figure.querySelector(".scroll").before(make("div", { className: "tools" }, ...tools));
  });

  document.querySelectorAll("pre.command").forEach((pre) => {
    const button = make("button", { type: "button", className: "plain-button" }, "copy");
    button.addEventListener("click", () => {
      getSelection().selectAllChildren(pre);
      button.textContent = document.execCommand("copy") ? "copied" : "press Ctrl-C";
    });
    pre.after(button);
  });
})();
