// Requests to the server.

async function request(path, options = {}) {
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error('The server does not answer. Is it still running?');
  }
  if (response.ok) return response;
  let detail = response.statusText;
  try {
    detail = (await response.json()).detail || detail;
  } catch { /* not JSON */ }
  throw new Error(typeof detail === 'string' ? detail : JSON.stringify(detail));
}

export const get = async (path) => (await request(path)).json();
export const blob = async (path) => (await request(path)).blob();
export const remove = async (path) => (await request(path, { method: 'DELETE' })).json();
export const post = async (path, value) =>
  (await request(path, {
    method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(value),
  })).json();
export const upload = async (path, file) => (await request(path, { method: 'POST', body: file })).json();

export function toBase64(bytes) {
  let text = '';
  for (let n = 0; n < bytes.length; n += 0x8000) {
    text += String.fromCharCode(...bytes.subarray(n, n + 0x8000));
  }
  return btoa(text);
}

export const fromBase64 = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));

// Follow a job until it is over; `onState` gets each state.
export function follow(id, onState) {
  return new Promise((resolve, reject) => {
    const source = new EventSource(`api/jobs/${id}/events`);
    source.onmessage = (event) => {
      const state = JSON.parse(event.data);
      onState(state);
      if (!['waiting', 'running'].includes(state.status)) {
        source.close();
        resolve(state);
      }
    };
    source.onerror = async () => {
      // The browser connects again by itself, unless the job or the server is gone.
      try {
        await get(`api/jobs/${id}`);
      } catch (error) {
        source.close();
        reject(error);
      }
    };
  });
}
