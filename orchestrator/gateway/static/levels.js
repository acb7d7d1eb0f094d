// Measures how loud a stream is: for the meters of the page, and for tests that must know what was audible.

const EVERY_MS = 40; // shorter than the analyser's window (2048 samples), so that nothing slips through

/**
 * Loudness (RMS, 0 to 1) of one stream, now and at most since the last reset. The constructor throws where the browser
 * cannot measure this stream; `onFailure(error)` is called when it stops being able to.
 */
export class LevelMeter {
  constructor(context, stream, onLevel, onFailure) {
    this.analyser = context.createAnalyser();
    this.source = context.createMediaStreamSource(stream);
    this.source.connect(this.analyser);
    this.samples = new Float32Array(this.analyser.fftSize);
    this.max = 0;
    this.level();
    this.timer = setInterval(() => {
      try {
        onLevel(this.level());
      } catch (error) {
        this.close();
        onFailure(error);
      }
    }, EVERY_MS);
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
    try {
      this.source.disconnect();
    } catch (error) {
      console.warn(error); // nothing depends on it
    }
  }
}
