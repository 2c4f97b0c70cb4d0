// Buttons in the page's HTML report their action; after the answer, the keyboard's focus returns to the same button or its neighbour.
let last = null;
element.addEventListener('click', (event) => {
  const button = event.target.closest('button[data-do]');
  if (!button || button.disabled) return;
  last = {do: button.dataset.do, what: button.dataset.what};
  trigger('click', last);
});
watch('value', () => {
  if (!last) return;
  const all = [...element.querySelectorAll('button[data-do]')];
  const same = all.find((b) => b.dataset.do === last.do && b.dataset.what === last.what && b.offsetParent);
  const target = [same, ...all.filter((b) => b.dataset.what === last.what), ...all].find((b) => b && !b.disabled && b.offsetParent);
  last = null;
  if (target) target.focus({preventScroll: true});
});
