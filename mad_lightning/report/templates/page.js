// Adds to a page that can be read without it: values under the pointer, groups that come and go,
// a slider over the generations.
"use strict";
document.documentElement.classList.add("scripted");
const all = (selector, within = document) => [...within.querySelectorAll(selector)];
const one = (selector, within = document) => within.querySelector(selector);

// groups that come and go
for (const button of all("[data-toggle]"))
  button.addEventListener("click", () => {
    const shown = button.getAttribute("aria-pressed") === "false";
    button.setAttribute("aria-pressed", shown);
    for (const part of all(`[data-group="${button.dataset.toggle}"]`)) part.classList.toggle("off", !shown);
  });
one("#seeds")?.addEventListener("change", event => document.body.classList.toggle("with-seeds", event.target.checked));

// values under the pointer, or under the focus with the arrow keys
for (const figure of all("figure.curves")) {
  const svg = one("svg", figure), xs = JSON.parse(svg.dataset.x), ts = JSON.parse(svg.dataset.t);
  const when = one(".when", figure), cells = all(".value", figure), cursor = one(".cursor", svg);
  const before = [when, ...cells].map(part => part.textContent);
  let place = ts.length - 1;
  const show = k => {
    place = Math.max(0, Math.min(k, ts.length - 1));
    figure.classList.add("reading");
    cursor.setAttribute("x1", xs[place]);
    cursor.setAttribute("x2", xs[place]);
    when.textContent = `generation ${ts[place]}`;
    for (const cell of cells) cell.textContent = JSON.parse(cell.dataset.values)[place];
  };
  const leave = () => {
    figure.classList.remove("reading");
    [when, ...cells].forEach((part, k) => { part.textContent = before[k]; });
  };
  if (!ts.length) continue;
  svg.setAttribute("tabindex", 0);
  svg.addEventListener("pointermove", event => {
    const box = svg.getBoundingClientRect();
    const x = (event.clientX - box.left) * svg.viewBox.baseVal.width / box.width;
    const nearest = xs.reduce((best, at, k) => Math.abs(at - x) < Math.abs(xs[best] - x) ? k : best, 0);
    show(nearest);
  });
  svg.addEventListener("pointerleave", leave);
  svg.addEventListener("focus", () => show(place));
  svg.addEventListener("blur", leave);
  svg.addEventListener("keydown", event => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step) { show(place + step); event.preventDefault(); }
  });
}

// the slider: of each strip, what is real and the generation that is shown
const samples = one("#samples"), slider = one("#slider");
if (samples) {
  const films = all(".film").map(film => all("figure", film));
  const scale = () => {
    for (const image of all(".film img")) {
      if (!image.closest("figure").offsetWidth) continue;
      const room = image.closest("figure").clientWidth, natural = image.width && +image.getAttribute("width");
      const times = Math.floor(room / natural);
      image.style.width = times >= 1 ? `${times * natural}px` : "";
      image.classList.toggle("enlarged", times >= 1);
    }
  };
  const show = () => {
    const t = +slider.value, whole = one("#all").checked;
    samples.classList.toggle("one", !whole);
    one("#shown").textContent = whole ? "" : t ? `generation ${t}` : "real samples";
    for (const figures of films) {
      const made = figures.map(figure => +figure.dataset.generation);  // 0 is what is real
      const latest = t ? Math.max(...made.filter(known => known <= t)) : Math.min(...made);
      for (const figure of figures) figure.hidden = !whole && +figure.dataset.generation !== latest;
    }
    scale();
  };
  let playing = null;
  const stop = () => { clearInterval(playing); playing = null; one("#play").textContent = "▶"; };
  one("#play").addEventListener("click", () => {
    if (playing) return stop();
    one("#play").textContent = "⏸";
    if (slider.value === slider.max) slider.value = slider.min;
    playing = setInterval(() => {
      if (slider.value === slider.max) return stop();
      slider.value = +slider.value + 1;
      show();
    }, 700);
    return show();
  });
  slider.addEventListener("input", () => { stop(); show(); });
  one("#all").addEventListener("change", show);
  addEventListener("resize", scale);
  slider.value = slider.max;
  one("#all").checked = films.length < 3;  // there is room for all of them
  show();
}

// all numbers, to keep
one("#save").addEventListener("click", () => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([one("#data").textContent], { type: "application/json" }));
  link.download = "report.json";
  link.click();
  URL.revokeObjectURL(link.href);
});
