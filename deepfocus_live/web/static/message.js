// Takes the binary messages apart: 4-byte header length, JSON header, JPEG, PNG.

const headerEnd = (buffer) => 4 + new DataView(buffer).getUint32(0);

export function readHeader(buffer) {
  return JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, headerEnd(buffer) - 4)));
}

async function decode(buffer, start, length, type) {
  if (!length) return null;
  return createImageBitmap(new Blob([new Uint8Array(buffer, start, length)], { type }));
}

/** A message's header, with its picture and mask ready to be drawn. */
export async function readMessage(buffer) {
  const header = readHeader(buffer);
  const pictureAt = headerEnd(buffer);
  const maskAt = pictureAt + header.picture_bytes;
  const [bitmap, maskBitmap] = await Promise.all([
    decode(buffer, pictureAt, header.picture_bytes, "image/jpeg"),
    decode(buffer, maskAt, header.mask_bytes, "image/png"),
  ]);
  return { header, bitmap, maskBitmap };
}
