// The page of a production model, which shows the recorded run.

import { modelOverviewOf } from "./model_overview.js";
import { start } from "./trace_page.js";

start(modelOverviewOf);
