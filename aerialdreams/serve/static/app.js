// The page: starts grounds, sends recipes, shows results.

import * as api from './api.js';
import { Board, TOOLS } from './board.js';
import { Mask, NO_CLASS } from './mask.js';

const $ = (id) => document.getElementById(id);
const state = { model: null, ground: null, job: null, results: [], shown: null };
const board = new Board($('canvas'), { changed, picked: chooseClass, cursor: tellCursor });

function tell(text) { $('status').textContent = text; }

function fail(error) { $('message').textContent = error.message; }

function element(name, properties = {}, children = []) {
  const node = Object.assign(document.createElement(name), properties);
  node.append(...children);
  return node;
}

// --- Classes and tools

function buildClasses() {
  const keys = '1234567890';
  state.model.classes.forEach((row, n) => {
    const swatch = element('span', { className: 'swatch' });
    swatch.style.background = row.colour;
    const key = element('kbd', { textContent: keys[n] || '', hidden: n >= keys.length });
    const share = element('span', { className: 'share', id: `share-${row.id}` });
    const input = element('input', { type: 'radio', name: 'class', value: row.id });
    input.addEventListener('change', () => chooseClass(row.id));
    const label = element('label', {}, [input, swatch, element('span', { textContent: row.name }), key, share]);
    $('classes').append(label);
  });
  board.setClasses(state.model.classes);
  chooseClass(state.model.classes[0].id);
}

function chooseClass(id) {
  board.classId = id;
  document.querySelector(`input[name=class][value="${id}"]`).checked = true;
}

function buildTools() {
  for (const [name, label, key] of TOOLS) {
    const button = element('button', { type: 'button', textContent: label, title: `${label} (${key})` });
    button.dataset.tool = name;
    button.addEventListener('click', () => chooseTool(name));
    $('tools').append(button);
  }
  const size = element('input', { type: 'number', min: 1, max: 200, value: board.size, id: 'size' });
  size.addEventListener('input', () => { board.size = Math.max(1, Number(size.value) || 1); });
  $('tools').append(element('label', {}, ['size ', size]));
  const actions = [
    ['Undo', () => board.undo()], ['Redo', () => board.undo(true)],
    ['+', () => board.zoomBy(1.5)], ['−', () => board.zoomBy(1 / 1.5)], ['Fit', () => board.fit()],
  ];
  for (const [label, action] of actions) {
    const button = element('button', { type: 'button', textContent: label });
    button.addEventListener('click', () => state.ground && action());
    $('tools').append(button);
  }
  chooseTool('brush');
}

function chooseTool(name) {
  board.tool = name;
  for (const button of $('tools').querySelectorAll('[data-tool]')) {
    button.setAttribute('aria-pressed', button.dataset.tool === name);
  }
}

function tellCursor(x, y) {
  const { mask } = board;
  if (!mask || x < 0 || y < 0 || x >= mask.width || y >= mask.height) return;
  const id = mask.ids[y * mask.width + x];
  const row = state.model.classes.find((one) => one.id === id);
  const size = state.model.pixel_size;
  tell(`${x}, ${y}: ${row ? row.name : 'no class'} · ${mask.width} × ${mask.height} pixels, `
    + `${Math.round(mask.width * size)} × ${Math.round(mask.height * size)} m`);
}

// --- Grounds

function setGround(ground, ids = api.fromBase64(ground.mask)) {
  const original = api.fromBase64(ground.mask);
  state.ground = ground;
  board.setMask(new Mask(ground.width, ground.height, ids, original.length === ids.length ? original : null));
  $('prompt').value = ground.caption;
  $('message').textContent = (ground.notes || []).join('; ');
  if (ground.has_photograph) {
    state.shown = { ids: original, real: true, image: `api/grounds/${ground.id}/photograph.png` };
  } else state.shown = null;
  showChoices();
  changed(false);
  tell(`${ground.name}: ${ground.width} × ${ground.height} pixels`);
}

function emptyGround() {
  const width = Number($('new-width').value), height = Number($('new-height').value);
  const { max_side: most, max_pixels: pixels } = state.model;
  if (!(width >= 8 && height >= 8 && width <= most && height <= most && width * height <= pixels)) {
    throw new Error(`Width and height must be from 8 to ${most} pixels.`);
  }
  const ids = new Uint8Array(width * height).fill(board.classId);
  setGround({ id: null, name: 'Empty ground', width, height, mask: api.toBase64(ids), place: null, caption: '' });
  proposeCaption();
}

async function loadFile(file) {
  if (file.size > state.model.max_upload) throw new Error(`${file.name}: is too large.`);
  if (file.name.endsWith('.json')) {
    const value = JSON.parse(await file.text());
    if (value.version === 1 && value.mask) return loadRecipe(value);
  }
  const query = new URLSearchParams({ name: file.name, mapping: $('mapping').value });
  return setGround(await api.upload(`api/grounds/file?${query}`, file));
}

function loadRecipe(recipe) {
  const ground = {
    id: null, name: 'Recipe', width: recipe.width, height: recipe.height, place: recipe.place,
    mask: recipe.start ? recipe.start.mask : recipe.mask, caption: recipe.prompt,
  };
  setGround(ground, api.fromBase64(recipe.mask));
  $('follow').checked = false;
  $('style').value = '';
  for (const [id, value] of Object.entries({
    prompt: recipe.prompt, negative: recipe.negative_prompt, seed: recipe.seed,
    variations: recipe.variations, steps: recipe.steps ?? '', guidance: recipe.guidance ?? '',
    scale: recipe.conditioning_scale ?? '', margin: recipe.margin,
  })) $(id).value = value;
  if (recipe.start?.photograph) {
    const image = `data:image/png;base64,${recipe.start.photograph}`;
    state.shown = { ids: api.fromBase64(recipe.start.mask), real: recipe.start.real, image };
  }
  state.sampler = recipe.sampler;
  showChoices();
  changed(false);
  $('only-changed').checked = Boolean(recipe.start);
  showMargin();
}

// --- Caption, estimate

function shares() {
  const { counts } = board.mask, total = board.mask.ids.length - counts[NO_CLASS] || 1;
  return Object.fromEntries(state.model.classes.map((row) => [row.name, counts[row.id] / total]));
}

function showShares() {
  const now = shares();
  for (const row of state.model.classes) {
    const share = now[row.name] * 100;
    $(`share-${row.id}`).textContent = share ? `${share < 1 ? share.toFixed(1) : Math.round(share)} %` : '';
  }
}

let captionTimer = 0;

async function proposeCaption() {
  if (!$('follow').checked) return;
  const asked = await api.post('api/caption', { shares: shares(), ground: state.ground.id });
  if ($('follow').checked) $('prompt').value = asked.caption;
}

async function showEstimate() {
  if (!state.ground) return;
  const { width, height } = board.mask;
  const { seconds } = await api.post('api/estimate', {
    width, height, steps: number('steps'), guidance: number('guidance'), variations: number('variations') || 1,
  });
  $('estimate').textContent = `about ${seconds < 90 ? `${Math.max(1, Math.round(seconds))} s` : `${Math.round(seconds / 60)} min`}`;
}

function changed(caption = true) {
  showShares();
  const canEdit = Boolean(state.shown && state.shown.ids.length === board.mask.ids.length);
  $('only-changed').disabled = !canEdit;
  if (!canEdit) $('only-changed').checked = false;
  showMargin();
  clearTimeout(captionTimer);
  captionTimer = setTimeout(() => {
    showEstimate().catch(fail);
    if (caption) proposeCaption().catch(fail);
  }, 250);
}

function showMargin() { $('margin-label').hidden = !$('only-changed').checked; }

// --- Jobs

const number = (id) => ($(id).value === '' ? null : Number($(id).value));

async function photographOf(shown) {
  const inline = 'data:image/png;base64,';
  if (shown.image.startsWith(inline)) return shown.image.slice(inline.length);
  const file = await api.blob(shown.image);
  return api.toBase64(new Uint8Array(await file.arrayBuffer()));
}

async function recipeOfPage() {
  const style = $('style').value.trim();
  const recipe = {
    width: board.mask.width, height: board.mask.height, mask: api.toBase64(board.mask.ids),
    prompt: `${$('prompt').value} ${style}`.trim(), negative_prompt: $('negative').value,
    seed: number('seed') || 0, variations: number('variations') || 1, steps: number('steps'),
    guidance: number('guidance'), conditioning_scale: number('scale'), sampler: state.sampler || null,
    place: state.ground.place, margin: number('margin') ?? 8,
  };
  if ($('only-changed').checked) {
    recipe.start = {
      mask: api.toBase64(state.shown.ids), photograph: await photographOf(state.shown), real: Boolean(state.shown.real),
    };
  }
  return recipe;
}

async function generate() {
  await state.loading;
  if (!state.ground) throw new Error('Start from a place, an empty ground or a file first.');
  $('message').textContent = '';
  if (!$('lock').checked) $('seed').value = Math.floor(Math.random() * 1e9);
  const recipe = await recipeOfPage(), ids = board.mask.ids.slice();
  setBusy(true);
  try {
    const job = await api.post('api/jobs', recipe);
    state.job = job.id;
    const over = await api.follow(job.id, showProgress);
    if (over.status === 'done') addResult(over, recipe, ids);
    else if (over.status === 'failed') throw new Error(over.error);
    else tell('Cancelled.');
  } finally {
    setBusy(false);
  }
}

function setBusy(busy) {
  $('generate').disabled = busy;
  $('cancel').hidden = !busy;
  $('progress').hidden = !busy;
  $('progress').removeAttribute('value');
}

function showProgress(job) {
  if (job.status === 'waiting') tell(`Waiting: ${job.ahead} before yours.`);
  else if (job.steps) {
    $('progress').max = job.steps;
    $('progress').value = job.done;
    tell(`Step ${job.done} of ${job.steps}`);
  }
}

function addResult(job, recipe, ids) {
  const result = { job, recipe, ids, number: state.results.length + 1, ground: state.ground };
  state.results.push(result);
  tell(`Done in ${job.seconds.toFixed(1)} s.`);
  const label = `${result.number}: seed ${recipe.seed}${recipe.start ? ', edit' : ''}`;
  const image = element('img', { src: `api/jobs/${job.id}/images/1.png`, alt: '' });
  const button = element('button', { type: 'button' }, [image, element('span', { textContent: label })]);
  button.addEventListener('click', () => openResult(result));
  $('history').prepend(element('li', {}, [button]));
  show(result);
}

// Show a result, and draw on from its mask.
function openResult(result) {
  setGround(
    { ...result.ground, mask: result.ground.mask, caption: result.recipe.prompt },
    result.ids.slice(),
  );
  show(result);
}

function show(result) {
  const before = result.recipe.start
    ? { label: 'before the edit', image: `data:image/png;base64,${result.recipe.start.photograph}` } : null;
  state.shown = { ids: result.ids, real: false, image: `api/jobs/${result.job.id}/images/1.png` };
  showChoices(result, before);
  showJudged(result.job);
  showDownloads(result.job);
  changed(false);
}

// --- Comparison

function maskImage() {
  const copy = new OffscreenCanvas(board.mask.width, board.mask.height);
  copy.getContext('2d').drawImage(board.buffer, 0, 0);
  return copy.convertToBlob().then((blob) => URL.createObjectURL(blob));
}

let choicesShown = 0;

async function showChoices(result = null, before = null) {
  const turn = ++choicesShown, mask = await maskImage();
  if (turn !== choicesShown) return; // a later call has been here
  const choices = [{ label: 'mask', image: mask }];
  if (state.ground.has_photograph) {
    choices.push({ label: 'real photograph', image: `api/grounds/${state.ground.id}/photograph.png` });
  }
  if (before) choices.push(before);
  for (const one of state.results) {
    if (one.recipe.width !== board.mask.width || one.recipe.height !== board.mask.height) continue;
    for (let n = 1; n <= one.job.images; n++) {
      const label = `result ${one.number}${one.job.images > 1 ? `, variation ${n}` : ''}`;
      choices.push({ label, image: `api/jobs/${one.job.id}/images/${n}.png`, of: one, number: n });
      if (one.job.judged[n - 1]) choices.push({ label: `${label}: judge's map`, image: `api/jobs/${one.job.id}/judge/${n}.png` });
    }
  }
  state.choices = choices;
  for (const side of ['left', 'right']) {
    $(side).replaceChildren(...choices.map((choice, n) => new Option(choice.label, n)));
  }
  const right = result ? choices.findIndex((choice) => choice.of === result) : choices.length - 1;
  const left = before ? choices.indexOf(before) : choices.findIndex((choice) => choice.label === 'real photograph');
  $('left').value = Math.max(0, left);
  $('right').value = Math.max(0, right);
  $('result').hidden = choices.length < 2;
  compare();
}

function compare() {
  for (const side of ['left', 'right']) {
    const choice = state.choices[$(side).value];
    $(`image-${side}`).src = choice.image;
    $(`image-${side}`).alt = choice.label;
  }
  $('image-right').style.clipPath = `inset(0 0 0 ${$('slider').value}%)`;
}

function showJudged(job) {
  const texts = job.judged.map((one, n) => one && `${job.images > 1 ? `variation ${n + 1}: ` : ''}`
    + `the judge finds the mask's class in ${Math.round(one.pixel_accuracy * 100)} % of the pixels, `
    + `mean IoU ${one.miou.toFixed(2)}`);
  $('judged').textContent = texts.some(Boolean) ? `Does it obey? ${texts.join('; ')}.` : 'No judge: models/segmenter is missing.';
}

function showDownloads(job) {
  const links = [
    [`images/1.png`, 'PNG', 'image.png'],
    ['result.zip', job.georeferenced ? 'All as GeoTIFFs (ZIP)' : 'All (ZIP)', 'result.zip'],
    ['recipe.json', 'Recipe', 'recipe.json'],
  ];
  $('downloads').replaceChildren(...links.map(([path, textContent, download]) =>
    element('a', { href: `api/jobs/${job.id}/${path}`, textContent, download })));
}

// --- Set up

function guarded(action) {
  return async (...values) => {
    $('message').textContent = '';
    try {
      await action(...values);
    } catch (error) {
      fail(error);
    }
  };
}

// An action that loads a ground: generating waits for it.
function loading(action) {
  return (...values) => { state.loading = guarded(action)(...values); };
}

async function setUp() {
  state.model = await api.get('api/model');
  const { model } = state;
  $('about').textContent = `${model.classes.length} classes, ${model.pixel_size.toFixed(2)} m per pixel`;
  $('credit').textContent = `Model trained on ${model.credit}`;
  for (const side of ['new-width', 'new-height']) $(side).value = model.image_size * 2;
  for (const [id, key] of [['steps', 'steps'], ['guidance', 'guidance'], ['scale', 'conditioning_scale']]) {
    $(id).placeholder = model.sampling[key];
  }
  buildClasses();
  buildTools();
  const groups = {};
  for (const patch of await api.get('api/patches')) {
    groups[patch.split] ||= element('optgroup', { label: patch.split });
    groups[patch.split].append(new Option(patch.name, `${patch.split} ${patch.row}`));
  }
  $('patches').append(...Object.values(groups));
  $('patches').closest('label').hidden = !Object.keys(groups).length;

  $('patches').addEventListener('change', loading(async () => {
    const [split, row] = $('patches').value.split(' ');
    if (split) setGround(await api.post('api/grounds/patch', { split, row: Number(row) }));
  }));
  $('new').addEventListener('click', guarded(emptyGround));
  $('file').addEventListener('change', loading(async () => {
    const [file] = $('file').files;
    $('file').value = '';
    if (file) await loadFile(file);
  }));
  $('generate').addEventListener('click', guarded(generate));
  $('cancel').addEventListener('click', guarded(() => api.remove(`api/jobs/${state.job}`)));
  $('only-changed').addEventListener('change', showMargin);
  $('prompt').addEventListener('input', () => { $('follow').checked = false; });
  $('follow').addEventListener('change', guarded(() => state.ground && proposeCaption()));
  for (const id of ['steps', 'guidance', 'variations']) $(id).addEventListener('change', guarded(showEstimate));
  for (const id of ['left', 'right']) $(id).addEventListener('change', compare);
  $('slider').addEventListener('input', compare);
  document.addEventListener('keydown', shortcut);
  for (const name of ['dragover', 'dragleave', 'drop']) {
    document.addEventListener(name, (event) => {
      event.preventDefault();
      document.body.classList.toggle('dropping', name === 'dragover');
    });
  }
  document.addEventListener('drop', loading(async (event) => {
    const [file] = event.dataTransfer.files;
    if (file) await loadFile(file);
  }));
  document.body.dataset.ready = 'yes';
}

function shortcut(event) {
  if (!state.ground || event.target.matches('input:not([type=radio]):not([type=checkbox]), textarea, select')) return;
  const key = event.key.toLowerCase();
  if (event.ctrlKey || event.metaKey) {
    if (key === 'z' || key === 'y') {
      event.preventDefault();
      board.undo(key === 'y' || event.shiftKey);
    }
    return;
  }
  const tool = TOOLS.find((one) => one[2] === key);
  const row = '1234567890'.includes(key) && state.model.classes['1234567890'.indexOf(key)];
  if (tool) chooseTool(tool[0]);
  else if (row) chooseClass(row.id);
  else if (key === '[' || key === ']') {
    board.size = Math.max(1, board.size + (key === ']' ? 1 : -1));
    $('size').value = board.size;
  }
}

setUp().catch(fail);
