// The page of a result that has only sections and no view.

import {start} from "./result_page.js";

start();
