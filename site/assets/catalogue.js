// The catalogue of a library, in Parquet.
import { parquetReadObjects } from "../vendor/hyparquet/index.js";
import { get } from "./library.js";

/** Catalogue as an array of plain rows, all columns or some; throws with a sentence for the visitor. */
export async function catalogue(columns) {
  const reply = await get("catalogue.parquet");
  const rows = await parquetReadObjects({ file: await reply.arrayBuffer(), columns });
  for (const row of rows) {
    for (const key in row) if (typeof row[key] === "bigint") row[key] = Number(row[key]);
  }
  return rows;
}
