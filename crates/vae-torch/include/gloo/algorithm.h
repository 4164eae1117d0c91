// libtorch's headers of its process group name gloo's, which its packages leave out. These declare what is named, as gloo
// does: what they declare is only passed on.
#pragma once
