// The page of a result without a view of its own: it has only sections.

import { start } from "./result_page.js";

start();
