# Sourced by the scripts of this repository: --help prints the comment at the top of the script.

# print_usage: print the comment at the top of the script.
print_usage() {
  sed -n '2,/^set /{/^# /s/^# //p;}' "$0"
}

# help_if_asked ARGUMENTS...: with --help or -h as the first one, print the usage and exit.
help_if_asked() {
  case "${1:-}" in
    -h | --help)
      print_usage
      exit 0
      ;;
  esac
}
