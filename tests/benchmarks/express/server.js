// The contender from Node.js: the pages of ../sites.py with express-session and connect-mongo, as their READMEs set them
// up. Run as `node server.js URI COLLECTION`; prints its port and ends with its standard input.
"use strict";

const express = require("express");
const session = require("express-session");
const { MongoStore } = require("connect-mongo");

const [uri, collection] = process.argv.slice(2);
const app = express();
app.use(
  session({
    secret: "benchmark",
    resave: false,
    saveUninitialized: false,
    store: MongoStore.create({ mongoUrl: uri, dbName: "sesame_benchmark", collectionName: collection }),
  }),
);

app.get("/seed", (request, response) => {
  request.session.times = 1;
  const size = Number(request.query.size || 0);
  for (let number = 0; size && number < 100; number++) {
    request.session[`field${number}`] = "x".repeat(size / 100);
  }
  response.send("");
});
app.get("/read", (request, response) => response.send(`${request.session.times} times!`));
app.get("/count", (request, response) => response.send(`${++request.session.times} times!`));

const server = app.listen(0, "127.0.0.1", () => console.log(server.address().port));
process.stdin.resume();
process.stdin.on("end", () => process.exit());
