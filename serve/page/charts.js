// Small SVG drawings: a line over the last minute, and marks on the deadline's scale.

const SVG = "http://www.w3.org/2000/svg";

function shape(name, attributes) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

/** Draw numbers, the newest at the right end; null leaves a gap. The SVG's viewBox gives the size. */
export function drawLine(svg, values, capacity) {
  const { width, height } = svg.viewBox.baseVal;
  const known = values.filter((value) => value !== null);
  const top = Math.max(1e-9, ...known) * 1.15;
  const x = (index) => width - (values.length - 1 - index) * (width / (capacity - 1));
  const y = (value) => height - 2 - (value / top) * (height - 6);
  let path = "";
  let area = "";
  let start = null;
  values.forEach((value, index) => {
    if (value === null) {
      if (start !== null) area += `L${x(index - 1)} ${height}L${x(start)} ${height}Z`;
      start = null;
      return;
    }
    const point = `${x(index).toFixed(1)} ${y(value).toFixed(1)}`;
    path += (start === null ? "M" : "L") + point;
    area += (start === null ? "M" : "L") + point;
    if (start === null) start = index;
  });
  if (start !== null) area += `L${x(values.length - 1)} ${height}L${x(start)} ${height}Z`;
  svg.replaceChildren(
    shape("line", { class: "base", x1: 0, x2: width, y1: height - 1, y2: height - 1 }),
    shape("path", { class: "area", d: area }),
    shape("path", { class: "line", d: path, "vector-effect": "non-scaling-stroke" }),
  );
}

/** Put a mark for every subnet where its own latency lies on the deadline's scale; shares from 0 to 1. */
export function drawTicks(element, marks) {
  element.replaceChildren(
    ...marks.map(({ share, isChosen, title }) => {
      const mark = document.createElement("span");
      mark.className = isChosen ? "tick chosen" : "tick";
      mark.style.setProperty("--at", share);
      mark.title = title;
      return mark;
    }),
  );
}
