// The page of a microGPT, which the page can run.

import { overviewOf } from "./overview.js";
import { start } from "./trace_page.js";

start(overviewOf);
