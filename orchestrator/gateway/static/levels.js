// Measures how loud a stream is: for the meters of the page, and for tests that must know what was audible.

const EVERY_MS = 40; // shorter than the analyser's window (2048 samples), so that nothing slips through

/** Loudness (RMS, 0 to 1) of one stream, now and at most since the last reset. */
export class LevelMeter {
  constructor(context, stream, onLevel) {
    this.analyser = context.createAnalyser();
    this.source = context.createMediaStreamSource(stream);
    this.source.connect(this.analyser);
    this.samples = new Float32Array(this.analyser.fftSize);
    this.max = 0;
    this.timer = setInterval(() => onLevel(this.level()), EVERY_MS);
  }

  level() {
    this.analyser.getFloatTimeDomainData(this.samples);
    const energy = this.samples.reduce((sum, sample) => sum + sample * sample, 0);
    const level = Math.sqrt(energy / this.samples.length);
    this.max = Math.max(this.max, level);
    return level;
  }

  close() {
    clearInterval(this.timer);
    this.source.disconnect();
  }
}
