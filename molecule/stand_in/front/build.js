// Writes dist/: every file of src/, and beside it a compressed one for nginx' gzip_static.
"use strict";

const fs = require("fs");
const path = require("path");
const zlib = require("zlib");

const source = path.join(__dirname, "src");
const target = path.join(__dirname, "dist");

fs.rmSync(target, { recursive: true, force: true });
fs.mkdirSync(target);
for (const name of fs.readdirSync(source).sort()) {
  const data = fs.readFileSync(path.join(source, name));
  fs.writeFileSync(path.join(target, name), data);
  fs.writeFileSync(path.join(target, name + ".gz"), zlib.gzipSync(data, { level: 9 }));
  console.log(`${name}: ${data.length} bytes`);
}
