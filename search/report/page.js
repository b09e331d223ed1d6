"use strict";
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const places = Object.keys(figures).map((id) => [document.getElementById(id), figures[id]]).filter(([place]) => place);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");

  // The colours of text and lines are those of the page.
  const themed = (layout) => {
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    const axis = (given) => ({ ...given, gridcolor: colour("--line"), linecolor: colour("--line"), fixedrange: true });
    return {
      ...layout,
      font: { family: getComputedStyle(document.body).fontFamily, size: 13, color: colour("--text") },
      xaxis: axis(layout.xaxis),
      yaxis: axis(layout.yaxis),
      hoverlabel: { bgcolor: colour("--sheet"), bordercolor: colour("--line"), font: { color: colour("--text") }, align: "left" },
    };
  };

  const choose = (trial) => {
    const wanted = String(trial);
    const cards = document.querySelectorAll(".card");
    if (![...cards].some((card) => card.dataset.trial === wanted)) return;
    cards.forEach((card) => { card.hidden = card.dataset.trial !== wanted; });
    document.querySelectorAll("tr[data-trial]").forEach((row) => {
      row.classList.toggle("chosen", row.dataset.trial === wanted);
    });
    document.getElementById("cards").scrollTop = 0;
  };

  const config = { responsive: true, displayModeBar: false };
  const draw = () => Promise.all(places.map(([place, figure]) => Plotly.react(place, figure.data, themed(figure.layout), config)));
  draw().then(() => {
    places.forEach(([place]) => place.on("plotly_click", (event) => {
      const point = event.points[0];
      if (point && point.customdata !== undefined) choose(point.customdata);
    }));
    document.body.dataset.drawn = "yes";
  });
  dark.addEventListener("change", draw);
  document.querySelectorAll("tr[data-trial]").forEach((row) => row.addEventListener("click", () => choose(row.dataset.trial)));
})();
