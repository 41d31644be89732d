// The processes that a run starts: each ends with it, however it ends, and no wait is without a deadline.
import { fork, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { createConnection, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";

const START_MS = 15_000; // for a server to answer
const STOP_MS = 5_000; // for one to end by itself
const TAIL = 4_000; // characters of output that are shown of one that failed

export class Failure extends Error {}

export class Processes {
  #running = [];
  #folder = mkdtempSync(join(tmpdir(), "asidecar-conformance-"));

  constructor() {
    // Whatever way the end comes, nothing stays behind.
    process.on("exit", () => {
      for (const child of this.#running) child.kill("SIGKILL");
      rmSync(this.#folder, { recursive: true, force: true });
    });
  }

  /** A path for a file of the run's own. */
  file(name) {
    return join(this.#folder, name);
  }

  /** Starts a program; with `module` a script of node's that can send messages. */
  start(name, command, args, { module = false, ...options } = {}) {
    const stdio = module ? ["ignore", "pipe", "pipe", "ipc"] : ["ignore", "pipe", "pipe"];
    const child = (module ? fork : spawn)(command, args, { stdio, ...options });
    child.output = "";
    child.ended = false;
    child.gone = new Promise((resolve) => {
      const end = (how) => { child.ended = true; child.how ??= how; resolve(); };
      child.once("error", (error) => end(error.code === "ENOENT" ? `there is no program ${command}` : error.message));
      child.once("close", (code, signal) => end(signal ? `ended by ${signal}` : `ended with status ${code}`));
    });
    for (const stream of [child.stdout, child.stderr]) {
      stream?.setEncoding("utf8").on("data", (text) => { child.output += text; });
    }
    child.title = name;
    this.#running.push(child);
    child.gone.then(() => { this.#running = this.#running.filter((other) => other !== child); });
    return child;
  }

  /** SIGTERM, and SIGKILL if that does not help. */
  async stop(...children) {
    for (const child of children.filter((c) => !c.ended)) {
      child.kill("SIGTERM");
      await Promise.race([child.gone, delay(STOP_MS, undefined, { ref: false })]);
      if (!child.ended) child.kill("SIGKILL");
      await child.gone;
    }
  }

  async stopAll() {
    await this.stop(...[...this.#running].reverse());
  }

  /** A Redis without files, on a port of its own. */
  async redis() {
    for (let attempt = 0; ; attempt++) {
      const port = await quietPort();
      const args = ["--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", this.#folder];
      const redis = this.start("redis-server", "redis-server", args);
      try {
        await until(redis, "an answer to PING", () => pong(port));
        return { redis, port };
      } catch (failure) {
        await this.stop(redis);
        // Somebody may have taken the port in between.
        if (attempt === 4 || !/in use/.test(redis.output)) throw failure;
      }
    }
  }
}

/** Asks again until `probe` gives something, the process has ended, or its time is over. */
export async function until(child, what, probe) {
  const deadline = Date.now() + START_MS;
  while (!child.ended) {
    const found = await probe();
    if (found) return found;
    if (Date.now() > deadline) throw failed(child, `no ${what} within ${START_MS / 1000} s`);
    await Promise.race([child.gone, delay(20)]);
  }
  throw failed(child, child.how);
}

export function failed(child, how) {
  const said = child.output.trim().slice(-TAIL);
  return new Failure(`${child.title}: ${how}${said ? `. The end of what it said:\n\n${said}\n` : ""}`);
}

/** The answer to a GET, or nothing if there is none. */
export async function get(url) {
  try {
    const response = await fetch(url, { signal: AbortSignal.timeout(2_000) });
    return { status: response.status, text: await response.text() };
  } catch {
    return undefined;
  }
}

async function pong(port) {
  const socket = createConnection({ host: "127.0.0.1", port, timeout: 1_000 });
  socket.once("timeout", () => socket.destroy(new Error("timeout")));
  try {
    await once(socket, "connect");
    socket.write("PING\r\n");
    const [answer] = await once(socket, "data");
    return String(answer).startsWith("+PONG");
  } catch {
    return false;
  } finally {
    socket.destroy();
  }
}

/** A free port below those that the system gives to outgoing connections. */
async function quietPort() {
  for (;;) {
    const port = 12_000 + Math.floor(Math.random() * 20_000);
    const server = createServer();
    try {
      server.listen(port, "127.0.0.1");
      await once(server, "listening");
      return port;
    } catch {
      // taken
    } finally {
      await new Promise((resolve) => server.close(resolve));
    }
  }
}
