# Gives uv the settings that pip has on this machine; sourced by scripts/setup.sh and by `make pins`.
#
# uv does not read PIP_* variables or pip.conf. A variable of uv's own that is already set is kept.
# configure_uv expects the output of `pip config list` in pip_config.

# The value that pip would use for a setting: a variable before the section [install] before [global].
pip_setting() {
  local section line value=""
  for section in global install :env:; do
    while IFS= read -r line; do
      case $line in "$section.$1="?*) value=${line#*=} value=${value:1:-1} value=${value//\\n/ } ;; esac
    done <<<"$pip_config"
  done
  echo "$value"
}

export_for_uv() {
  local variable=$1 value=$2
  [ -n "$value" ] && [ -z "${!variable:-}" ] || return 0
  export "$variable=$value"
}

configure_uv() {
  local cert links
  export_for_uv UV_DEFAULT_INDEX "$(pip_setting index-url)"
  export_for_uv UV_INDEX "$(pip_setting extra-index-url)"
  links=($(pip_setting find-links))
  export_for_uv UV_FIND_LINKS "$(IFS=, && echo "${links[*]}")"
  export_for_uv UV_CONSTRAINT "$(pip_setting constraint)"
  export_for_uv UV_INSECURE_HOST "$(pip_setting trusted-host)"
  export_for_uv ALL_PROXY "$(pip_setting proxy)"
  export_for_uv SSL_CLIENT_CERT "$(pip_setting client-cert)"
  cert=$(pip_setting cert)
  cert=${cert:-${REQUESTS_CA_BUNDLE:-${CURL_CA_BUNDLE:-}}}
  if [ -d "$cert" ]; then export_for_uv SSL_CERT_DIR "$cert"; else export_for_uv SSL_CERT_FILE "$cert"; fi
  export_for_uv UV_HTTP_TIMEOUT "$(pip_setting timeout)"
  export_for_uv UV_HTTP_TIMEOUT "$(pip_setting default-timeout)"
  export_for_uv UV_HTTP_TIMEOUT 120
  uv_index="" # The one setting for which uv has no variable.
  case $(pip_setting no-index) in 1 | true | yes | on) uv_index=--no-index ;; esac
  # As pip does: consider the files of all indexes. The hashes restrict which ones are accepted.
  export_for_uv UV_INDEX_STRATEGY unsafe-best-match
  # As pip does. Where PYTHONDONTWRITEBYTECODE is set, every process would compile what it imports: importing
  # torch, transformers, ray and vllm takes 10 s of CPU time instead of 4.6 s.
  export_for_uv UV_COMPILE_BYTECODE 1
}
