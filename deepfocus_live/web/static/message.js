// Takes the binary messages apart: header length, JSON header, the parts it lists.

const headerEnd = (buffer) => 4 + new DataView(buffer).getUint32(0);

export function readHeader(buffer) {
  return JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, headerEnd(buffer) - 4)));
}

/** The header, and each part's bytes and media type by its name. */
export function unpack(buffer) {
  const header = readHeader(buffer);
  const parts = {};
  let at = headerEnd(buffer);
  for (const { name, media_type: type, length } of header.parts) {
    parts[name] = { type, bytes: new Uint8Array(buffer, at, length) };
    at += length;
  }
  return { header, parts };
}

/** A part as a picture that can be drawn; null if there is no such part. */
export async function decode(part) {
  if (!part) return null;
  // Values are data here: no colour management may touch them.
  return createImageBitmap(new Blob([part.bytes], { type: part.type }), { colorSpaceConversion: "none" });
}
