// Preloaded into the suite's server, which would listen on all addresses and on a port that somebody has to choose: here it
// listens on loopback, on a port of the system's choice, and tells the parent which. It ends when the parent is gone.
"use strict";
const { Server } = require("node:net");

const listen = Server.prototype.listen;
Server.prototype.listen = function (...args) {
  this.once("listening", () => process.send?.({ port: this.address().port }));
  return listen.call(this, { host: "127.0.0.1", port: 0 }, args.find((arg) => typeof arg === "function"));
};
process.once("disconnect", () => process.exit());
