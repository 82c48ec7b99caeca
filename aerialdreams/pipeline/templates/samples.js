// Sliders and filters of the report's samples. Without it, the three images stand side by side.
const grid = document.querySelector(".samples");
const tools = document.querySelector("#tools");
const more = document.querySelector("#more");
const figures = [...grid.children];
const STEP = 16; // figures that are added at a time
let limit = STEP;

function update() {
  const { view, split, agreement, order } = tools.elements;
  const [low, high] = agreement.value.split(" ").map(Number);
  const wanted = tools.elements.class.value;
  grid.dataset.view = view.value;
  const shown = figures.filter(({ dataset }) => {
    const accuracy = Number(dataset.accuracy);
    return (!split.value || dataset.split === split.value)
      && (!wanted || dataset.classes.includes(` ${wanted} `))
      && accuracy >= low && (accuracy < high || high === 1);
  });
  const mixed = (figure) => (figures.indexOf(figure) * 37) % figures.length;
  const rank = {
    mixed: (a, b) => mixed(a) - mixed(b),
    best: (a, b) => b.dataset.accuracy - a.dataset.accuracy,
    worst: (a, b) => a.dataset.accuracy - b.dataset.accuracy,
    place: (a, b) => (a.dataset.id < b.dataset.id ? -1 : 1),
  };
  grid.replaceChildren(...shown.sort(rank[order.value]).slice(0, limit));
  more.hidden = shown.length <= limit;
  tools.elements.count.value = `${shown.length} of ${figures.length} patches`;
}

document.documentElement.classList.add("interactive");
tools.hidden = false;
for (const figure of figures) {
  const divider = figure.querySelector("input");
  divider.hidden = false;
  divider.addEventListener("input", () => figure.style.setProperty("--at", `${divider.value}%`));
}
tools.addEventListener("change", () => { limit = STEP; update(); });
more.addEventListener("click", () => { limit += STEP; update(); });
update();
