// Shows the fragment that was built with the front end, so that a page tells whether static files arrive.
"use strict";

fetch("/static/about.html")
  .then((answer) => answer.text())
  .then((text) => document.body.insertAdjacentHTML("beforeend", text));
