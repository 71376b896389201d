"use strict";
(() => {
  const axes = FACTS.axes, cells = FACTS.cells;
  const varying = axes.map((_, i) => i).filter((i) => axes[i].labels.length > 1);
  const byPlace = new Map(cells.map((cell, n) => [cell.at.join(), n]));
  const state = {
    x: FACTS.x, y: FACTS.y,
    at: axes.map(() => 0), // what is chosen of the axes that are on no side
    here: null, first: null, pinned: false, mode: "one", flipped: false, gain: 4, cut: .5, sharp: false,
    scale: 1, left: 0, top: 0, fitted: true,
  };
  const make = (name, props = {}, ...inside) => {
    const node = Object.assign(document.createElement(name), props);
    for (const key of ["title", "role"]) if (props[key]) node.setAttribute(key, props[key]);
    if (props.label) node.setAttribute("aria-label", props.label);
    node.append(...inside);
    return node;
  };
  // file names may break behind these
  const soft = (text) => text.replace(/([_\-./+,])(?=\S)/g, "$1\u200b");
  const source = (n) => "data:image/png;base64," + IMAGES[cells[n].image];
  const named = (n) => {
    const words = varying.map((i) => axes[i].labels[cells[n].at[i]]);
    return words.join(" · ") || FACTS.title;
  };

  // ---- theme: what the system has, until the reader says otherwise
  const dark = matchMedia("(prefers-color-scheme: dark)");
  let theme = null;
  const paintTheme = () => { document.documentElement.dataset.theme = theme ?? (dark.matches ? "dark" : "light"); };
  dark.addEventListener("change", paintTheme);
  paintTheme();

  // ---- head and controls
  const bar = make("nav", { className: "bar", label: "What stands where" });
  const main = make("main", { tabIndex: -1 });
  document.body.append(
    make("header", {}, make("h1", { textContent: FACTS.title, title: FACTS.title }),
      make("p", { textContent: FACTS.fixed.join(" · ") })), bar, main);

  const chooser = (label, value, change) => {
    const select = make("select", { onchange: () => change(select.value === "" ? null : +select.value) },
      make("option", { value: "", textContent: "–" }),
      ...varying.map((i) => make("option", { value: i, textContent: axes[i].name })));
    select.value = value ?? "";
    return make("label", {}, label, select);
  };
  const place = (side, axis) => {
    const other = side === "x" ? "y" : "x";
    if (axis !== null && state[other] === axis) state[other] = state[side];
    state[side] = axis;
    build();
  };
  const pages = () => varying.filter((i) => i !== state.x && i !== state.y);
  const turn = (axis, by) => {
    const count = axes[axis].labels.length;
    state.at[axis] = (state.at[axis] + by + count) % count;
    build();
  };
  const pager = (i) => {
    const select = make("select", { onchange: () => { state.at[i] = +select.value; build(); } },
      ...axes[i].labels.map((text, n) => make("option", { value: n, textContent: text })));
    select.value = state.at[i];
    return make("span", { className: "pager" }, axes[i].name,
      make("button", { textContent: "‹", label: `previous ${axes[i].name}`, onclick: () => turn(i, -1) }), select,
      make("button", { textContent: "›", label: `next ${axes[i].name}`, onclick: () => turn(i, 1) }));
  };
  const largest = Math.max(...cells.map((cell) => cell.size ? cell.size[0] : 0), 64);
  const counts = [state.x, state.y].map((i) => i === null ? 1 : axes[i].labels.length);
  const room = (innerWidth - (innerWidth > 760 ? 190 : 20)) / counts[0] - 8;
  const size = make("input", { type: "range", min: 48, max: 768, step: 8, title: "Size of the pictures",
    value: Math.round(Math.max(innerWidth > 760 ? 120 : 92, Math.min(room, Math.max(largest, 256), 512))) });
  size.oninput = () => main.style.setProperty("--cell", size.value + "px");
  const says = make("button", { textContent: "Settings", ariaPressed: "false", title: "Write the settings below each picture (S)" });
  const sharp = make("button", { textContent: "Pixels", ariaPressed: "false", title: "Show pixels as squares (X)" });
  const help = make("dialog", { className: "help" });
  let told = false;
  const tell = () => { told = !told; says.ariaPressed = told; main.firstChild.classList.toggle("told", told); };
  const sharpen = () => {
    state.sharp = !state.sharp;
    sharp.ariaPressed = state.sharp;
    document.querySelectorAll("main img, .box img").forEach((img) => img.classList.toggle("sharp", state.sharp));
  };
  says.onclick = tell;
  sharp.onclick = sharpen;
  const controls = () => {
    bar.replaceChildren();
    if (varying.length) bar.append(chooser("Columns", state.x, (i) => place("x", i)),
      chooser("Rows", state.y, (i) => place("y", i)),
      make("button", { textContent: "⇄", title: "Swap columns and rows", label: "swap columns and rows",
        onclick: () => { [state.x, state.y] = [state.y, state.x]; build(); } }));
    bar.append(...pages().map(pager), make("span", { className: "space" }),
      make("label", { className: "wide" }, "Zoom", size), make("span", { className: "together" }, says, sharp,
      make("button", { textContent: "◐", title: "Light or dark", label: "light or dark",
        onclick: () => { theme = document.documentElement.dataset.theme === "dark" ? "light" : "dark"; paintTheme(); } }),
      make("button", { textContent: "?", title: "Keys (?)", label: "keys", onclick: () => help.showModal() })));
  };

  // ---- the table
  const numberAt = (x, y) => {
    const at = [...state.at];
    if (state.x !== null) at[state.x] = x;
    if (state.y !== null) at[state.y] = y;
    return byPlace.get(at.join());
  };
  const values = (axis) => axis === null ? [""] : axes[axis].labels;
  const caption = (n) => cells[n].settings.filter(([, value]) => value !== "")
    .map(([name, value]) => name === "prompt" && varying.every((i) => axes[i].name !== "prompt") ? "" : `${name} ${value}`)
    .filter(Boolean).join(", ");
  const tile = (n, x, y) => {
    const cell = cells[n];
    if (cell.why) return make("div", { className: "none", textContent: cell.why });
    const img = make("img", { src: source(n), alt: named(n), loading: "lazy", decoding: "async",
      width: cell.size[0], height: cell.size[1], className: state.sharp ? "sharp" : "" });
    const button = make("button", { className: "cell", title: named(n), label: named(n) }, img,
      make("span", { className: "says", textContent: caption(n) }));
    Object.assign(button.dataset, { n, x, y });
    button.classList.toggle("first", state.pinned && state.first === n);
    button.onclick = (event) => {
      if (event.shiftKey || event.ctrlKey || event.metaKey) { pin(n); build(); } else open(n);
    };
    return button;
  };
  function build() {
    controls();
    const columns = values(state.x), rows = values(state.y), labelled = state.y !== null;
    const grid = make("div", { className: "grid" + (told ? " told" : "") });
    const narrow = innerWidth <= 760;
    const side = labelled && !narrow ? "minmax(6rem,11.5rem) " : narrow ? "" : "1.1rem ";
    grid.style.gridTemplateColumns = `${side}repeat(${columns.length}, var(--cell))`;
    if (state.x !== null) {
      if (!narrow) grid.append(make("div", { className: "corner" }));
      for (const text of columns) grid.append(make("div", { className: "col", title: text }, make("span", { textContent: soft(text) })));
    }
    rows.forEach((text, y) => {
      grid.append(make("div", { className: "row" + (labelled ? "" : " blank"), title: text }, make("span", { textContent: soft(text) })));
      columns.forEach((_, x) => grid.append(tile(numberAt(x, y), x, y)));
    });
    main.style.setProperty("--cell", size.value + "px");
    main.replaceChildren(grid);
  }
  let narrowBefore = innerWidth <= 760;
  addEventListener("resize", () => {
    if (narrowBefore !== (innerWidth <= 760)) { narrowBefore = !narrowBefore; build(); }
    if (zoom.open) { if (state.fitted) fit(); else move(); }
  });
  main.addEventListener("keydown", (event) => {
    const cell = document.activeElement.closest?.(".cell");
    const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!cell || !way) return;
    event.preventDefault();
    main.querySelector(`.cell[data-x="${+cell.dataset.x + way[0]}"][data-y="${+cell.dataset.y + way[1]}"]`)?.focus();
  });

  // ---- one picture, or two at the same place
  const zoom = make("dialog", { className: "zoom" });
  const a = make("img", { className: "a", draggable: false }), b = make("img", { className: "b", draggable: false });
  const box = make("div", { className: "box" }, a, b);
  const handle = make("div", { className: "handle", label: "move the cut" });
  const tags = [make("div", { className: "tag left" }), make("div", { className: "tag right" })];
  const stage = make("div", { className: "stage" }, box, handle, ...tags);
  const side = make("aside", { className: "side", tabIndex: 0, label: "settings" });
  const title = make("span", { className: "name" });
  const modes = make("span", { className: "modes", role: "group", label: "view" });
  const gain = make("input", { type: "range", min: 1, max: 20, step: 1, value: state.gain, title: "Amplify the difference" });
  const measured = make("span");
  const against = make("select", { title: "The picture to compare with (A)", label: "compare with" });
  const pinned = make("button", { textContent: "Keep A", title: "Keep this picture as A (R)", ariaPressed: "false" });
  for (const [mode, text, key] of [["one", "Picture", "1"], ["flip", "Flip", "F"], ["split", "Split", "P"], ["difference", "Difference", "D"]]) {
    modes.append(make("button", { textContent: text, title: `${text} (${key})`, value: mode, onclick: () => view(mode) }));
  }
  const save = make("a", { textContent: "Save", title: "Save this PNG; it says how it was made" });
  zoom.append(make("div", { className: "stage-bar" }, title, modes,
    make("label", { className: "only-two" }, "A: ", against), pinned,
    make("span", { className: "only-difference" }, gain, measured),
    make("button", { className: "close", textContent: "✕", title: "Close (Esc)", label: "close", onclick: () => zoom.close() })), stage, side);
  document.body.append(zoom, help);

  const pictures = cells.map((_, n) => n).filter((n) => !cells[n].why);
  against.append(...pictures.map((n) => make("option", { value: n, textContent: named(n) })));
  against.onchange = () => { pin(+against.value); show(); against.blur(); };
  gain.oninput = () => { state.gain = +gain.value; paint(); };
  const pin = (n) => { state.pinned = !(state.pinned && state.first === n); state.first = n; };
  pinned.onclick = () => { pin(state.here); show(); };

  function open(n) {
    if (state.first === null) {
      const at = cells[n].at;
      state.first = neighbour(at, state.x, -1) ?? neighbour(at, state.x, 1) ?? neighbour(at, state.y, -1) ?? neighbour(at, state.y, 1) ?? n;
    } else if (!state.pinned && state.here !== null && state.here !== n) state.first = state.here;
    state.here = n;
    state.flipped = false;
    if (!zoom.open) zoom.showModal();
    state.fitted = true;
    show();
    stage.focus();
  }
  function neighbour(at, axis, by) {
    if (axis === null) return undefined;
    for (let i = at[axis] + by; i >= 0 && i < axes[axis].labels.length; i += by) {
      const n = byPlace.get(at.with ? at.with(axis, i).join() : at.map((v, k) => k === axis ? i : v).join());
      if (n !== undefined && !cells[n].why) return n;
    }
    return undefined;
  }
  const step = (axis, by) => {
    const n = neighbour(cells[state.here].at, axis, by);
    if (n === undefined) return;
    if (!state.pinned) state.first = state.here;
    for (const i of pages()) state.at[i] = cells[n].at[i];
    state.here = n;
    state.flipped = false;
    show();
  };
  const view = (mode) => { state.mode = mode; state.flipped = false; show(); };
  const flip = () => {
    if (state.mode !== "flip") { state.mode = "flip"; state.flipped = true; } else state.flipped = !state.flipped;
    show();
  };

  function show() {
    const two = state.mode !== "one";
    zoom.className = `zoom ${state.mode}${two ? " two" : ""}`;
    for (const button of modes.children) button.ariaPressed = button.value === state.mode;
    title.textContent = title.title = named(state.here);
    pinned.ariaPressed = state.pinned && state.first === state.here;
    against.value = state.first;
    a.src = source(state.first); b.src = source(state.here);
    a.alt = named(state.first); b.alt = named(state.here);
    save.href = source(state.here); save.download = cells[state.here].file;
    tell_side(two && state.first !== state.here ? state.first : null);
    if (state.fitted) fit(); else move();
    paint();
  }
  function paint() {
    const mode = state.mode;
    box.className = `box ${mode}`;
    box.style.filter = mode === "difference" ? `brightness(${state.gain})` : "";
    a.style.display = mode === "one" ? "none" : "";
    b.style.display = mode === "flip" && state.flipped ? "none" : "";
    b.style.clipPath = mode === "split" ? `inset(0 0 0 ${state.cut * 100}%)` : "";
    tags[0].textContent = mode === "split" || (mode === "flip" && state.flipped) ? `A: ${named(state.first)}` : mode === "flip" ? named(state.here) : "";
    tags[1].textContent = mode === "split" ? named(state.here) : "";
    measured.textContent = "";
    if (mode === "difference") measure();
    move();
  }
  const pixels = (n) => new Promise((resolve, reject) => {
    const img = new Image();
    img.onload = () => {
      const canvas = make("canvas", { width: img.naturalWidth, height: img.naturalHeight });
      const pen = canvas.getContext("2d", { willReadFrequently: true });
      pen.drawImage(img, 0, 0);
      resolve(pen.getImageData(0, 0, canvas.width, canvas.height));
    };
    img.onerror = reject;
    img.src = source(n);
  });
  async function measure() {
    const pair = [state.first, state.here];
    const text = `×${state.gain}`;
    measured.textContent = text;
    try {
      const [one, two] = await Promise.all(pair.map(pixels));
      if (pair[0] !== state.first || pair[1] !== state.here || state.mode !== "difference") return;
      if (one.width !== two.width || one.height !== two.height) { measured.textContent = `${text}, sizes differ`; return; }
      let sum = 0, changed = 0;
      for (let i = 0; i < one.data.length; i += 4) {
        const apart = Math.abs(one.data[i] - two.data[i]) + Math.abs(one.data[i + 1] - two.data[i + 1]) + Math.abs(one.data[i + 2] - two.data[i + 2]);
        sum += apart;
        changed += apart > 0;
      }
      const count = one.data.length / 4;
      measured.textContent = sum === 0 ? "the same pixels"
        : `×${state.gain}, ${(sum / count / 3).toFixed(1)} of 255 on average, ${Math.round(100 * changed / count)} % of the pixels differ`;
    } catch { measured.textContent = text; }
  }
  function tell_side(other) {
    const before = other === null ? null : new Map(cells[other].settings.map(([name, value]) => [name, value]));
    const cell = cells[state.here];
    const names = new Set([...cell.settings.map(([name]) => name), ...(before ? before.keys() : [])]);
    const now = new Map(cell.settings.map((row) => [row[0], row]));
    const table = make("table");
    if (before) table.append(make("thead", {}, make("tr", {}, make("th"), make("th", { textContent: "this" }), make("th", { textContent: "A" }))));
    for (const name of names) {
      const [, value = "–", origin = ""] = now.get(name) ?? [];
      const row = make("tr", {}, make("th", { textContent: name }), make("td", {}, value, origin && origin !== "user" ? make("small", { textContent: ` (${origin})` }) : ""));
      if (before) {
        const old = before.get(name) ?? "–";
        row.append(make("td", { textContent: old }));
        if (old !== value) row.className = "other";
      }
      table.append(row);
    }
    side.replaceChildren(make("h2", { textContent: "Settings" }), table, make("h2", { textContent: "Again" }),
      make("pre", { textContent: cell.command }), copier(cell.command, "Copy the command"),
      make("h2", { textContent: "Text in the PNG" }), make("pre", { textContent: cell.text }), copier(cell.text, "Copy the text"), " ",
      Object.assign(save, { className: "copy" }));
  }
  const copier = (text, label) => {
    const button = make("button", { className: "copy", textContent: label });
    button.onclick = async () => {
      try { await navigator.clipboard.writeText(text); } catch {
        const area = make("textarea", { value: text }); // file:// pages may have no clipboard
        zoom.append(area); area.select(); document.execCommand("copy"); area.remove();
      }
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = label; }, 1200);
    };
    return button;
  };

  // ---- zoom and pan; both pictures move together
  const sides = () => cells[state.here].size;
  const move = () => {
    const [width, height] = sides();
    box.style.width = width + "px"; box.style.height = height + "px";
    box.style.transform = `translate(${state.left}px,${state.top}px) scale(${state.scale})`;
    handle.style.left = state.left + state.cut * width * state.scale + "px";
  };
  function fit() {
    const [width, height] = sides();
    state.scale = Math.min((stage.clientWidth - 16) / width, (stage.clientHeight - 16) / height);
    state.left = (stage.clientWidth - width * state.scale) / 2;
    state.top = (stage.clientHeight - height * state.scale) / 2;
    state.fitted = true;
    move();
  }
  const scaleBy = (factor, x = stage.clientWidth / 2, y = stage.clientHeight / 2) => {
    const scale = Math.min(64, Math.max(.05, state.scale * factor));
    state.left = x - (x - state.left) * scale / state.scale;
    state.top = y - (y - state.top) * scale / state.scale;
    state.scale = scale;
    state.fitted = false;
    move();
  };
  const inside = (event) => { const at = stage.getBoundingClientRect(); return [event.clientX - at.left, event.clientY - at.top]; };
  stage.tabIndex = -1;
  stage.addEventListener("wheel", (event) => { event.preventDefault(); scaleBy(Math.exp(-event.deltaY / 400), ...inside(event)); }, { passive: false });
  stage.addEventListener("dblclick", (event) => { if (state.fitted) scaleBy(Math.max(1, Math.round(state.scale * 2)) / state.scale, ...inside(event)); else fit(); });
  const fingers = new Map();
  let cutting = false;
  handle.addEventListener("pointerdown", () => { cutting = true; });
  stage.addEventListener("pointerdown", (event) => {
    fingers.set(event.pointerId, inside(event));
    stage.setPointerCapture(event.pointerId);
    stage.classList.add("dragged");
  });
  stage.addEventListener("pointermove", (event) => {
    const old = fingers.get(event.pointerId);
    if (!old) return;
    const now = inside(event);
    if (cutting) {
      state.cut = Math.min(1, Math.max(0, (now[0] - state.left) / (sides()[0] * state.scale)));
      b.style.clipPath = `inset(0 0 0 ${state.cut * 100}%)`;
    } else if (fingers.size === 2) {
      const other = [...fingers].find(([id]) => id !== event.pointerId)[1];
      const apart = (p) => Math.hypot(p[0] - other[0], p[1] - other[1]);
      scaleBy(apart(now) / Math.max(apart(old), 1), (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
    } else {
      state.left += now[0] - old[0]; state.top += now[1] - old[1];
      state.fitted = false;
    }
    fingers.set(event.pointerId, now);
    move();
  });
  for (const end of ["pointerup", "pointercancel"]) stage.addEventListener(end, (event) => {
    fingers.delete(event.pointerId);
    if (!fingers.size) { stage.classList.remove("dragged"); cutting = false; }
  });
  zoom.addEventListener("close", () => {
    build();
    main.querySelector(`.cell[data-n="${state.here}"]`)?.focus();
  });

  // ---- keys
  const keys = [["Arrows", "go to the neighbour"], ["Enter", "enlarge; Esc goes back"], ["[ ]", "previous, next page"],
    ["Space, F", "flip between this picture and A"], ["D", "difference from A"], ["P", "A and this picture, split"], ["1", "this picture alone"],
    ["R", "keep this picture as A; else A is the one before"], ["+ − 0", "larger, smaller, fit; also wheel, drag, double click"],
    ["X", "pixels as squares"], ["S", "settings below the pictures"], ["Shift+click", "choose A in the table"], ["?", "these keys"]];
  help.append(make("h2", { textContent: "Keys" }), make("table", {}, ...keys.map(([key, text]) =>
    make("tr", {}, make("td", {}, make("kbd", { textContent: key })), make("td", { textContent: text })))),
  make("form", { method: "dialog" }, make("button", { className: "copy", textContent: "Close" })));
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || help.open) return;
    if (/^(select|input|textarea)$/i.test(event.target.tagName) && event.key !== "Escape") return;
    const act = {
      "?": () => help.showModal(), x: sharpen,
      "[": () => pages().length && (zoom.open ? step(pages()[0], -1) : turn(pages()[0], -1)),
      "]": () => pages().length && (zoom.open ? step(pages()[0], 1) : turn(pages()[0], 1)),
      ...(zoom.open ? {
        ArrowLeft: () => step(state.x ?? state.y, -1), ArrowRight: () => step(state.x ?? state.y, 1),
        ArrowUp: () => step(state.y ?? state.x, -1), ArrowDown: () => step(state.y ?? state.x, 1),
        " ": flip, f: flip, d: () => view(state.mode === "difference" ? "one" : "difference"),
        p: () => view(state.mode === "split" ? "one" : "split"), 1: () => view("one"),
        r: () => { pin(state.here); show(); }, "+": () => scaleBy(1.25), "=": () => scaleBy(1.25), "-": () => scaleBy(.8), 0: fit,
      } : { s: tell }),
    }[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!act) return;
    event.preventDefault();
    act();
  });
  build();
})();
