"use strict";
(function () {
  var svg = document.documentElement, margin = 10, whole = 1180, letter = 6.6;
  var boxes = Array.prototype.slice.call(document.querySelectorAll("g.f"));
  var found = document.getElementById("found");
  function data(box, key) { return Number(box.getAttribute("data-" + key)); }
  // Shows the part from x to x + w, both shares of the whole, over all of the width.
  function zoom(x, w, y) {
    boxes.forEach(function (box) {
      var from = data(box, "x"), share = data(box, "w"), rect = box.children[1], text = box.children[2];
      var left = Math.max(from, x), right = Math.min(from + share, x + w);
      // Beside it; what it is called by is as wide as all, below it.
      if (right - left < 1e-9 || (share < w && Number(rect.getAttribute("y")) > y + 1)) { box.style.display = "none"; return; }
      var at = margin + (left - x) / w * whole, width = (right - left) / w * whole, room = Math.floor((width - 4) / letter);
      box.style.display = "";
      rect.setAttribute("x", at);
      rect.setAttribute("width", width);
      text.setAttribute("x", at + 3);
      var name = box.getAttribute("data-n");
      text.textContent = room < 3 ? "" : name.length <= room ? name : name.slice(0, room - 1) + "…";
    });
  }
  function focus(box) { zoom(data(box, "x"), data(box, "w"), Number(box.children[1].getAttribute("y"))); }
  function search() {
    var word = window.prompt("Mark what matches (a regular expression, nothing to unmark):", "");
    if (word === null) { return; }
    var pattern = null;
    try { pattern = word === "" ? null : new RegExp(word); } catch (_) { found.textContent = "not a pattern: " + word; return; }
    var spans = [];
    boxes.forEach(function (box) {
      var marked = pattern !== null && pattern.test(box.getAttribute("data-n"));
      box.classList.toggle("marked", marked);
      if (marked) { spans.push([data(box, "x"), data(box, "x") + data(box, "w")]); }
    });
    // What is called by another match counts once.
    var sum = 0, end = 0;
    spans.sort(function (a, b) { return a[0] - b[0]; }).forEach(function (span) {
      sum += Math.max(0, span[1] - Math.max(span[0], end));
      end = Math.max(end, span[1]);
    });
    found.textContent = pattern === null ? "" : "matched: " + (sum * 100).toFixed(1) + " %";
  }
  function button(label, x, act) {
    var text = document.createElementNS("http://www.w3.org/2000/svg", "text");
    text.setAttribute("class", "button");
    text.setAttribute("x", x);
    text.setAttribute("y", 24);
    text.setAttribute("tabindex", 0);
    text.textContent = label;
    text.addEventListener("click", act);
    text.addEventListener("keydown", function (event) { if (event.key === "Enter") { act(); } });
    svg.appendChild(text);
  }
  boxes.forEach(function (box) {
    box.addEventListener("click", function () { focus(box); });
    box.addEventListener("keydown", function (event) { if (event.key === "Enter") { focus(box); } });
  });
  button("search", 1060, search);
  button("all of it", 1120, function () { zoom(0, 1, Infinity); });
  window.addEventListener("keydown", function (event) {
    if ((event.ctrlKey || event.metaKey) && event.key === "f") { event.preventDefault(); search(); }
  });
}());
