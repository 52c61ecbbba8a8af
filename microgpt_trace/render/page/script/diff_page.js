// The page of a comparison: where two runs part, and the numbers of both sides.

import { diffView } from "./diff_view.js";
import { start } from "./result_page.js";

start(diffView);
