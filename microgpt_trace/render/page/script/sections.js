// The page of a result that has nothing but its sections.

import { start } from "./result_page.js";

start();
