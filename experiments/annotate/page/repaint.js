// Painting at most once a picture of the screen, however often it is asked for.

export function repaint(paint) {
  let waiting = 0;
  return () => {
    waiting ||= requestAnimationFrame(() => {
      waiting = 0;
      paint();
    });
  };
}
