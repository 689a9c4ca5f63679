// What the node says, as it changes: by server-sent events, by asking where those are not to be had.

const ASK_MS = 3000;
const AGAIN_MS = 30000;
const HISTORY = 300;

async function get(path) {
  const answer = await fetch(path, { cache: "no-store" });
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
  return answer.json();
}

export class Live {
  /** `on` has functions status(object), rounds(list) and mode("live" | "asking" | "silent"). */
  constructor(on) {
    this.on = on;
    this.source = null;
    this.asking = 0;
    this.again = 0;
    this.uptime = 0;
    this.last = 0;
    document.addEventListener("visibilitychange", () => (document.hidden ? this.rest() : this.begin()));
  }

  /** Call once: shows what start.js asked for, and begins. */
  async start() {
    this.listen();
    const [status, history] = window.talkootAsked;
    const now = await status;
    if (now && !this.uptime) this.status(now); // no event was faster
    const past = await history;
    if (past) this.rounds(past.rounds);
  }

  begin() {
    this.rest();
    this.history();
    this.listen();
  }

  /** A page that nobody looks at asks for nothing. */
  rest() {
    clearInterval(this.asking);
    clearTimeout(this.again);
    this.asking = this.again = 0;
    this.source?.close();
    this.source = null;
  }

  listen() {
    const source = new EventSource("/api/v1/events");
    this.source = source;
    source.addEventListener("status", (event) => {
      clearInterval(this.asking);
      this.asking = 0;
      this.on.mode("live");
      this.status(JSON.parse(event.data));
    });
    source.addEventListener("rounds", (event) => this.rounds(JSON.parse(event.data).rounds));
    source.addEventListener("error", () => {
      if (this.source !== source) return;
      if (source.readyState === EventSource.CLOSED) {
        this.again ||= setTimeout(() => ((this.again = 0), this.listen()), AGAIN_MS);
      }
      if (!this.asking) {
        this.asking = setInterval(() => this.ask(), ASK_MS);
        this.ask();
      }
    });
  }

  async ask() {
    try {
      const status = await get("/api/v1/status");
      const { rounds } = await get("/api/v1/rounds?last=8");
      this.on.mode("asking");
      this.status(status);
      this.rounds(rounds);
    } catch {
      this.on.mode("silent");
    }
  }

  async history() {
    try {
      this.rounds((await get(`/api/v1/rounds?last=${HISTORY}`)).rounds);
    } catch {
      // the next event or answer has the newest
    }
  }

  status(status) {
    if (status.uptime_s < this.uptime) this.history(); // it was started again
    this.uptime = status.uptime_s;
    this.on.status(status);
  }

  rounds(rounds) {
    if (!rounds.length) return;
    const gap = this.last && rounds[0].round > this.last + 1;
    this.last = rounds[rounds.length - 1].round;
    if (gap) this.history();
    this.on.rounds(rounds);
  }
}
